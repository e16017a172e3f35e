"""The published schema takes every recipe that is one, knows each key, and refuses what is wrong in any recipe."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from stillhouse import cli
from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe, yaml_files
from stillhouse.recipe.json_schema import recipe_schema, schema_text
from stillhouse.tasks import TASKS

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*/*.yaml"))
VALIDATOR = Draft7Validator(recipe_schema())

Values = dict[str, Any]


def recipe(**changes: Any) -> Values:
    return {"task": "text-classification", "teacher": {"model": "m"}, "student": {"shape": "T3"},
            "data": {"train": "train.csv"}, "output": "out", **changes}


def staged(*stages: Values, **changes: Any) -> Values:
    return {**recipe(**changes), "stages": list(stages)}


def test_the_published_file_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("recipe_schema", ROOT / "scripts" / "recipe_schema.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.FILE.read_text(encoding="utf-8") == schema_text(), "run scripts/recipe_schema.py"


def test_it_is_a_schema_and_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    Draft7Validator.check_schema(recipe_schema())
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_valid(name: str) -> None:
    problems = [error.message for error in VALIDATOR.iter_errors(yaml_files.read(ROOT / name))]
    assert not problems


RIGHT: list[Values] = [
    recipe(),
    recipe(student={"num_hidden_layers": 4, "hidden_size": 160}),
    recipe(student={"network": "BiGRU", "hidden_size": 512}),
    recipe(student={"keep": "half"}, cache="off", contrast="no_teacher"),
    recipe(teacher={"models": ["a", "b"], "weights": [1, 2.5], "match_teacher": 0}),
    recipe(teacher={"column": "probabilities", "missing_mass": "spread"}, student={"shape": "T3", "base": "m"}),
    recipe(training={"steps": 7, "warmup": "3 steps", "max_grad_norm": None, "evaluate_every": 0.5}),
    recipe(distillation={"matches": "L3_hidden_mse"}),
    recipe(distillation={"matches": ["L3_hidden_mse", {"loss": "pkd", "layers": [[0, 0], [-1, -1]]}]}),
    recipe(distillation={"matches": {"losses": ["hidden_mse", "nst"], "weight": {"nst": 2}},
                         "temperature_strategy": ["flsw", 1, 2]}),
    recipe(augmentation={"unlabelled": "more.txt", "functions": ["masking", {"deleting": {"p": 0.2}}]}),
    recipe(task="token-classification", data={"train": "t.jsonl", "tags": "ner", "label_names": ["O", "B-X"]}),
    recipe(task="sentence-embedding", data={"train": "t.txt", "validation": "v.csv", "text": ["a", "b"]},
           distillation={"embedding": {"cosine": 1, "relation": 0.5}}),
    recipe(task="multiple-choice", data={"train": "t.jsonl", "choices": ["A", "B"]}),
    staged({"name": "first"}, {"name": "second", "teacher": {"run": "first"}, "training": {"epochs": 20}}),
    staged({"name": "first", "data": {"max_length": 64}}),
    {"output": "out", "stages": [
        {"name": "general", "task": "masked-lm", "teacher": {"model": "m"}, "student": {"shape": "T3"},
         "data": {"train": "text.txt", "mask_share": 0.2}},
        {"name": "task", "task": "text-classification", "teacher": {"model": "m"}, "student": {"run": "general"},
         "data": {"train": "train.csv", "label": "intent"}}]},
]

WRONG: list[tuple[Values, str]] = [
    (recipe(tasks="x"), "tasks"),
    (recipe(task="text-clasification"), "text-clasification"),
    ({key: value for key, value in recipe().items() if key != "teacher"}, "teacher"),
    ({key: value for key, value in recipe().items() if key != "output"}, "output"),
    (recipe(data={"text": "text"}), "train"),
    (recipe(data={"train": "t", "tags": "ner_tags"}), "tags"),
    (recipe(task="token-classification", data={"train": "t", "text_pair": "x"}), "text_pair"),
    (recipe(task="sentence-embedding", data={"train": "t"}), "validation"),
    (recipe(student={}), "{}"),
    (recipe(teacher={}), "{}"),
    (recipe(teacher={"model": "m", "run": "n"}), "model"),
    (recipe(teacher={"model": "m", "train": {"epoch": 3}}), "epoch"),
    (recipe(training={"learning_rate": "fast"}), "fast"),
    (recipe(training={"batch_size": 0}), "0"),
    (recipe(training={"warmup": "3 rows"}), "3 rows"),
    (recipe(distillation={"matches": "L3_hidden"}), "L3_hidden"),
    (recipe(distillation={"matches": {"layers": "uniform"}}), "layers"),
    (recipe(distillation={"matches": {"loss": "cos", "losses": ["cos"]}}), "losses"),
    (recipe(distillation={"embedding": {"euclidean": 1}}), "euclidean"),
    (recipe(augmentation={"functions": ["shuffling"]}), "shuffling"),
    (recipe(stages="first"), "first"),
    (staged({"training": {"epochs": 1}}), "name"),
    (staged({"name": "first", "data": {"tokens": "words"}}), "tokens"),
    (staged({"name": "first", "stages": [{"name": "inner"}]}), "stages"),
]


@pytest.mark.parametrize("values", RIGHT)
def test_what_a_recipe_may_say_is_valid(values: Values) -> None:
    assert Recipe.from_dict(values).output == "out"
    assert not [error.message for error in VALIDATOR.iter_errors(values)]


@pytest.mark.parametrize(("values", "expected"), WRONG)
def test_what_no_recipe_may_say_is_refused(values: Values, expected: str) -> None:
    with pytest.raises(ConfigError):
        Recipe.from_dict(values)
    assert expected in str([error.message for error in VALIDATOR.iter_errors(values)])


def test_a_shape_that_does_not_exist_is_refused() -> None:
    (error,) = VALIDATOR.iter_errors(recipe(student={"shape": "T5"}))
    assert "T5" in error.message


def properties(schema: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of every section, with its place."""
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name == "properties" and "description" in schema:
                yield from ((f"{place}.{key}", found) for key, found in value.items())
            yield from properties(value, f"{place}.{name}")
    elif isinstance(schema, list):
        for value in schema:
            yield from properties(value, place)


def test_every_key_is_described_and_has_a_kind() -> None:
    found = dict(properties(recipe_schema()))
    assert len(found) > 100
    for place, schema in found.items():
        assert schema.get("description"), place
        assert schema.keys() & {"type", "enum", "anyOf", "allOf"}, place


def test_the_data_of_every_task_has_its_own_keys() -> None:
    definitions = recipe_schema()["definitions"]
    for task in TASKS.values():
        assert list(definitions[task.data.__name__]["properties"]) == list(task.data.model_fields)
