"""Promises of recipe files: what may be written, and what is said about the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillhouse.errors import ConfigError
from stillhouse.presets import MATCH_LOSS_MAP
from stillhouse.recipe import Recipe, load_recipe, yaml_files

Values = dict[str, Any]


def minimal(**changes: Any) -> Values:
    return {"task": "text-classification", "teacher": {"model": "m"}, "student": {"shape": "T3"},
            "data": {"train": "train.csv"}, "output": "out", **changes}


def message_of(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_dict(minimal(**changes))
    return str(caught.value)


def test_the_recipe_of_the_readme_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("""
task: text-classification
teacher: {model: some/model, train: {epochs: 6, learning_rate: 2e-4}}
student: {layers: [0, 2, 4]}
data: {train: a.jsonl.gz, validation: b.jsonl, test: c.csv, text: text, label: intent, label_names: names.json}
distillation: {temperature: 8, matches: {layers: uniform, losses: [hidden_mse, nst]}, hard_label_weight: 0.0}
training: {epochs: 10, batch_size: 32, learning_rate: 1.0e-4, warmup: 0.1, precision: auto, seed: 0}
cache: off
contrast: no_teacher
output: runs/clinc-t3
""")
    recipe = load_recipe(path)
    assert recipe.teacher.train is not None and recipe.teacher.train.learning_rate == 2e-4
    assert recipe.student.layers == (0, 2, 4) and recipe.cache == "off"
    assert recipe.distillation.matches[0].losses == ("hidden_mse", "nst")
    assert recipe.training.warmup == 0.1 and recipe.data.label_names == "names.json"


@pytest.mark.parametrize("changes", [
    {},
    {"student": {"num_hidden_layers": 2, "hidden_size": 64}},
    {"student": {"keep": 3}, "cache": "off", "contrast": "no_teacher"},
    {"training": {"steps": 7, "warmup": "3 steps", "max_grad_norm": None}, "teacher": {"model": "m", "train": {}}},
    {"distillation": {"matches": [{"losses": ["cos"]}, {"layers": [[4, 1], [-1, -1]], "losses": ["pkd", "nst"],
                                                        "weight": {"nst": 2}}]}},
    {"distillation": {"temperature_strategy": ["flsw", 1, 2.5], "loss": "ce", "loss_schedule": "linear_decay",
                      "matches": ["L3_hidden_mse", {"module_T": "bert.pooler", "module_S": "bert.pooler", "loss": "cos",
                                                    "projection": ["tanh", 4, 8], "schedule": "linear_growth"},
                                  {"losses": ["emd"]}]}},
    {"plugins": ["mine.py"]},
    {"data": {"train": "x", "label_names": ["1e3", "off", "no", "2024-01-01", "~"]}},
    {"stages": [{"name": "a", "training": {"epochs": 1}},
                {"name": "b", "teacher": {"run": "a"}, "student": {"keep": "half"}, "training": {"steps": 4}}],
     "training": {"steps": 9, "batch_size": 5}},
])
def test_a_recipe_survives_being_written_and_read(changes: Values) -> None:
    recipe = Recipe.from_dict(minimal(**changes))
    text = yaml_files.dump(recipe.as_dict())
    again = Recipe.from_dict(yaml_files.parse(text, "dumped"))
    assert again == recipe
    assert Recipe.from_dict(yaml.safe_load(text)) == recipe  # other readers of YAML too


def test_every_problem_is_listed_with_its_place_and_remedy() -> None:
    message = message_of(training={"epoch": 3, "batch_size": 0, "precision": "fp8"}, cach="off")
    assert message.startswith("the recipe has 4 problems:")
    assert "training.epoch: unknown key; did you mean 'epochs'? Known: epochs, steps, batch_size," in message
    assert "training.batch_size: 0: input should be greater than or equal to 1" in message
    assert "training.precision: 'fp8' is not one of 'auto', 'fp32', 'bf16' or 'fp16'" in message
    assert "cach: unknown key; did you mean 'cache'?" in message


@pytest.mark.parametrize(("changes", "expected"), [
    ({"data": {}}, "data.train: missing; The training data"),
    ({"teacher": "m"}, "teacher: 'm' is not a section; known keys: model, models, run, column, function, train,"),
    ({"teacher": {}}, "teacher: give one of model"),
    ({"teacher": {"models": ["m", "n"], "weights": [0, 0]}}, "teacher: weights: all are 0, so nobody teaches"),
    ({"distillation": {"embedding": {"cosine": 0, "relation": 0}, "matches": {"losses": ["nst"]}}},
     "distillation: embedding: all its weights are 0, so no vectors are compared"),
    ({"teacher": {"run": "x"}}, "teacher.run names an earlier stage, and there are no stages"),
    ({"student": {"shap": "T3"}}, "student: shap: unknown key; did you mean 'shape'?"),
    ({"student": {"shape": "T3", "keep": "half"}}, "got shape and keep"),
    ({"student": {"keep": "most"}}, "student.keep: 'most': write half, or how many layers to keep"),
    ({"training": {"epochs": 1, "steps": 2}}, "training: give epochs or steps, not both"),
    ({"training": {"learning_rate": True}}, "training.learning_rate: True"),
    ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
    ({"training": {"warmup": 5}}, "for steps or epochs write '5 steps' or '5 epochs'"),
    ({"training": {"evaluate_every": "1.5 epochs"}}, "training.evaluate_every: '1.5 epochs': write"),
    ({"distillation": {"matches": {"losses": []}}}, "distillation.matches.0.losses"),
    ({"distillation": {"matches": {"losses": ["hidden_ms"]}}}, "did you mean 'hidden_mse'? Known: attention_ce,"),
    ({"distillation": {"matches": "L3_hidden_ms"}}, "did you mean 'L3_hidden_mse'?"),
    ({"distillation": {"matches": {"module_T": "pooler", "loss": "cos"}}}, "give both module_T and module_S"),
    ({"distillation": {"matches": {"module_T": "a", "module_S": "b", "layers": "first", "loss": "cos"}}},
     "layers and modules do not go together"),
    ({"distillation": {"matches": {"layers": "uniform", "losses": ["nst", "emd"]}}},
     "layers and losses: emd do not go together"),
    ({"distillation": {"matches": {"losses": ["cos"], "projection": ["linear", 3]}}}, "[name, width of the student"),
    ({"distillation": {"matches": {"losses": ["cos"], "projection": "linea"}}}, "did you mean 'linear'?"),
    ({"distillation": {"matches": {"losses": ["cos"], "schedule": "linear_decline"}}}, "unknown weight schedule"),
    ({"distillation": {"loss": "kl"}}, "unknown loss 'kl'"),
    ({"distillation": {"temperature_strategy": "flsw"}}, "[flsw, 1, 2]"),
    ({"distillation": {"temperature_strategy": 3}}, "temperature_strategy: 3: write a name"),
    ({"distillation": {"loss_weight": 0, "hard_label_weight": 1, "probability_shift": True}}, "raise loss_weight"),
    ({"distillation": {"loss_weight": 0, "hard_label_weight": 1, "loss_schedule": "linear_decay"}},
     "distillation: loss_schedule changes the loss between logits, whose weight is 0; raise loss_weight, or leave"),
    ({"distillation": {"loss_weight": 0, "hard_label_weight": 1, "temperature_strategy": ["cwsm", 1],
                       "probability_shift": True}},
     "distillation: probability_shift and temperature_strategy change the loss between logits"),
    ({"distillation": {"hard_label_schedule": "linear_growth"}},
     "distillation: hard_label_schedule multiplies hard_label_weight, which is 0; raise hard_label_weight"),
    *(({"distillation": {"matches": {"module_T": "a", "module_S": "b", "losses": ["cos", loss]}}},
       f"distillation.matches.0: losses: {loss} cannot compare the outputs of two modules, being for attention maps or "
       "for several layers; use cos, hidden_mse, pkd, or layers instead of modules")
      for loss in ("attention_mse", "attention_ce_mean", "nst", "mmd", "fsp", "gram", "emd", "emd_cost_attention")),
    ({"distillation": {"matches": {"loss": "cos", "losses": ["cos"]}}},
     "distillation.matches.0: give loss or losses, not both"),
    ({"distillation": {"matches": {"losses": ["nst"], "layers": [[1]]}}}, "a list of pairs"),
    ({"distillation": {"matches": {"losses": ["nst"], "weight": {"cos": 1}}}}, "weight names cos"),
    ({"distillation": {"matches": {"losses": ["nst"], "weight": -1}}}, "write a number from 0"),
    ({"distillation": {"loss_weight": 0}}, "nothing to learn from"),
    ({"data": {"train": "x", "label_names": [1, 2]}}, "data.label_names: [1, 2]: write a file"),
    ({"stages": [{"training": {"epochs": 1}}]}, "stages.0.name: None: every stage needs a name of its own"),
    ({"stages": [{"name": "a"}, {"name": "a"}]}, "stages.1.name: 'a'"),
    ({"stages": [{"name": "a", "teacher": {"run": "b"}}, {"name": "b"}]}, "'b' is not an earlier stage; there is none"),
    ({"stages": [{"name": "a", "output": "x/a"}, {"name": "b", "output": "x/c/../a"}]},
     "stages.1.output: 'x/c/../a' is the folder of stage a too"),
    ({"stages": [{"name": "a", "output": "./out"}]}, "stages.0.output: './out' is the folder of the recipe itself too"),
    ({"trackers": ["wandbb"]},
     "trackers.0: 'wandbb' is not one of 'tensorboard', 'wandb' or 'mlflow'; did you mean 'wandb'?"),
    ({"cache": "memroy"}, "cache: 'memroy': did you mean memory? Write auto, off, memory, or a folder"),
    ({"cache": "on"}, "cache: 'on': did you mean auto?"),
    ({"cache": "none"}, "cache: 'none': did you mean off?"),
    ({"cache": True}, "cache: True: did you mean auto?"),
    ({"cache": ""}, "cache: '': Write auto"),
    ({"student": {"layers": "0 2"}}, "student.layers: '0 2' is not a list"),
    ({"student": {"layers": [0, 2], "shape": "T3"}},
     "--set 'student={shape: T3}' or --set 'student={layers: [0, 2]}'"),
    ({"stages": [{"name": "a", "training": {"epoch": 1}}]}, "the recipe: stages.0.training.epoch: unknown key"),
])
def test_what_cannot_work_is_said_in_one_line(changes: Values, expected: str) -> None:
    message = message_of(**changes)
    assert expected in message and "\n" not in message


def test_a_cache_folder_looks_like_one_or_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("./answers", "~/answers", "runs/answers", str(tmp_path / "answers")):
        assert Recipe.from_dict(minimal(cache=folder)).cache == folder
    assert "'answers': Write auto" in message_of(cache="answers")
    (tmp_path / "answers").mkdir()
    assert Recipe.from_dict(minimal(cache="answers")).cache == "answers"


def test_stages_say_only_what_differs() -> None:
    recipe = Recipe.from_dict(minimal(
        training={"epochs": 4, "batch_size": 7}, teacher={"model": "m", "train": {"epochs": 1}},
        stages=[{"name": "a", "training": {"steps": 3}}, {"name": "b", "teacher": {"run": "a"}}]))
    a, b = recipe.stages
    assert (a.training.steps, a.training.epochs, a.training.batch_size) == (3, None, 7)
    assert (b.training.steps, b.training.epochs) == (None, 4)
    assert a.teacher.train is not None and b.teacher.train is None and b.teacher.model == "out/a/student"
    assert (a.output, b.output) == ("out/a", "out/b")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(minimal(stages=[{"name": "a"}, {"name": "b"}])))
    return path


def test_overrides_change_values_anywhere(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, [
        "training.learning_rate=3e-4", "student={keep: half}", "stages.1.training.epochs=9", "cache=off",
        "data.label_names=[x, y]"])
    assert recipe.stages[0].training.learning_rate == 3e-4 and recipe.stages[0].student.keep == "half"
    assert [stage.training.epochs for stage in recipe.stages] == [10, 9]
    assert recipe.stages[0].cache == "off" and recipe.stages[0].data.label_names == ("x", "y")


def test_losses_set_beside_a_loss_say_which_to_give(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(minimal(distillation={"matches": [{"loss": "cos"}]})))
    with pytest.raises(ConfigError, match=r"distillation.matches.0: give loss or losses, not both"):
        load_recipe(path, ["distillation.matches.0.losses=[cos]"])
    assert load_recipe(path, ["distillation.matches.0.loss=pkd"]).distillation.matches[0].losses == ("pkd",)


@pytest.mark.parametrize("loss", ["cos", "hidden_mse", "pkd", "own"])
def test_between_modules_fit_losses_of_one_state_and_functions(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MATCH_LOSS_MAP, "own", lambda student, teacher, mask=None: (student - teacher).abs().mean())
    values = minimal(distillation={"matches": {"module_T": "a", "module_S": "b", "loss": loss}})
    assert Recipe.from_dict(values).distillation.matches[0].losses == (loss,)


@pytest.mark.parametrize(("override", "expected"), [
    ("training.epoch=3", "training.epoch: unknown key; did you mean 'epochs'?"),
    ("training.epochs", "write PATH=VALUE"),
    ("task.name=3", "task is 'text-classification', so nothing can be set inside it"),
    ("stages.2.name=x", "'2' should be a number from 0 to 1"),
    ("training.epochs=[", "is not YAML"),
])
def test_an_override_that_fits_nowhere_is_an_error(recipe_file: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe_file, [override])
    assert expected in str(caught.value)


@pytest.mark.parametrize(("text", "expected"), [
    ("a: [1, 2", "line 1, column"),
    ("a: 1\nb: 2\na: 3\n", "the key 'a' is given twice"),
    ("just words", "expected keys with values"),
    ("", "expected keys with values"),
    ("a: \x00", "is not YAML"),
])
def test_a_file_that_is_no_recipe_is_an_error(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert expected in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(("text", "value"), [
    ("2e-4", 2e-4), ("1.0e-4", 1e-4), ("-3E5", -3e5), (".5", 0.5), ("7", 7), ("off", "off"), ("no", "no"),
    ("true", True), ("null", None), ("2024-01-01", "2024-01-01"), ("1e", "1e"), ("v1.2", "v1.2"),
    (".inf", float("inf")),
    ("{<<: {a: 1, b: 2}, a: 3}", {"a": 3, "b": 2}),
])
def test_plain_words_mean_what_people_expect(text: str, value: Any) -> None:
    found = yaml_files.parse(text, "test")
    assert found == value and type(found) is type(value)


def test_every_field_says_what_it_is_for() -> None:
    def check(model: Any, seen: set[Any]) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            for part in [field.annotation, *getattr(field.annotation, "__args__", ())]:
                if hasattr(part, "model_fields") and part not in seen:
                    check(part, {*seen, part})

    check(Recipe, {Recipe})


def test_recipes_are_frozen(make_recipe: Callable[..., Values]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.from_dict(make_recipe()).output = "elsewhere"  # type: ignore[misc]
