"""Promises of stages: what cannot work is found before the first one trains, and the results come together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from stillhouse.errors import ConfigError, PlanError
from stillhouse.recipe import Recipe, load_recipe, plan, run
from stillhouse.recipe.stages import prepared_stages

from .conftest import LABELS, WORDS, MakeRecipe, save_encoder

pytestmark = pytest.mark.runs


def save_another_reader(folder: Path) -> str:
    return save_encoder(folder, [*WORDS[:5], *(2 * letter for letter in WORDS[5:])])


@pytest.mark.parametrize(("second", "expected"), [
    ({"teacher": {"run": "first"}, "data": {"label_names": list(reversed(sorted(LABELS)))}},
     r"teacher\.model: .* has the data's labels in another order"),
    ({"student": {"run": "first"}, "data": {"label_names": list(reversed(sorted(LABELS)))}},
     r"student\.model: .* has the data's labels in another order"),
    ({"teacher": {"run": "first"}, "data": {"max_length": 33}}, r"teacher\.model: data\.max_length is 33"),
    ({"teacher": {"run": "first"}, "student": {"max_position_embeddings": 8}}, r"student: data\.max_length is 16"),
    ({"teacher": {"run": "first"}, "student": {"model": "OTHER"}}, "the student's vocabulary is not the teacher's"),
    ({"teacher": {"model": "OTHER", "train": {"epochs": 1}}, "student": {"run": "first"}},
     "the student's vocabulary is not the teacher's"),
])
def test_a_later_stage_that_does_not_fit_fails_before_the_first_trains(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console, second: dict[str, Any], expected: str
) -> None:
    other = save_another_reader(tmp_path / "other")
    second = json.loads(json.dumps(second).replace("OTHER", other))
    recipe = Recipe.from_dict(make_recipe(stages=[{"name": "first"}, {"name": "second", **second}]))
    with pytest.raises(PlanError, match=expected):
        run(recipe, console=console)
    with pytest.raises(PlanError, match=expected):
        plan(recipe)
    assert not (tmp_path / "run").exists() and "fine-tuning" not in console.file.getvalue()  # type: ignore[attr-defined]


def short_stages(make_recipe: MakeRecipe) -> Recipe:
    return Recipe.from_dict(make_recipe(
        teacher={"model": make_recipe()["teacher"]["model"], "train": {"epochs": 1, "precision": "fp32"}},
        training={"epochs": 1}, contrast="no_teacher",
        stages=[{"name": "first"}, {"name": "second", "teacher": {"run": "first"},
                                    "student": {"num_hidden_layers": 1}}]))


def test_the_folder_of_all_stages_holds_the_recipe_and_all_results(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    recipe = short_stages(make_recipe)
    result = run(recipe, console=console)
    top = tmp_path / "run"
    assert {path.name for path in top.iterdir()} == {"recipe.yaml", "metrics.json", "first", "second"}
    assert Recipe.from_dict(yaml.safe_load((top / "recipe.yaml").read_text())) == recipe
    first, second = (stage.metrics for stage in result.stages)
    assert json.loads((top / "metrics.json").read_text()) == {"stages": {"first": first, "second": second}}
    assert first["contrast"]["starts_from"] == "the teacher's layers"
    assert second["contrast"]["starts_from"] == "scratch"
    assert run(recipe, console=console, resume=True).metrics == second


def test_a_run_without_stages_in_that_folder_is_not_written_over(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("task: text-classification\n")
    with pytest.raises(ConfigError, match=r"holds the recipe\.yaml of a run without stages"):
        run(short_stages(make_recipe), console=console, overwrite=True)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == "task: text-classification\n"


def test_a_plan_names_no_folder_of_a_teacher_that_is_yet_to_be(
    make_recipe: MakeRecipe, cache: Path
) -> None:
    first, second = plan(short_stages(make_recipe)).split("\n\n")
    for text in (first, second):
        line = next(line for line in text.splitlines() if line.startswith("cache"))
        assert f"in {cache / 'signals'}, about" in line
    assert "the same student, from scratch, without a teacher" in second


def write_stages(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_stage_can_be_run_alone_and_is_skipped_when_the_whole_is(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    values = make_recipe(
        teacher={"model": make_recipe()["teacher"]["model"], "train": {"epochs": 1, "precision": "fp32"}},
        training={"epochs": 1},
        stages=[{"name": "first"}, {"name": "second", "student": {"run": "first"}},
                {"name": "third", "student": {"num_hidden_layers": 1}}])
    path = write_stages(tmp_path / "recipe.yaml", values)
    with pytest.raises(ConfigError, match=r"student\.model: model '.*/run/first/student': there is no folder"):
        run(load_recipe(path, stage="second"), console=console)
    assert not (tmp_path / "run").exists()
    alone = {name: run(load_recipe(path, stage=name), console=console) for name in ("first", "second")}
    assert {part.name for part in (tmp_path / "run").iterdir()} == {"first", "second"}
    whole = run(load_recipe(path), console=console, resume=True)
    assert [stage.metrics for stage in whole.stages[:2]] == [alone["first"].metrics, alone["second"].metrics]
    assert whole.stages[2].output == tmp_path / "run" / "third"


def test_overrides_change_the_stage_that_is_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = write_stages(tmp_path / "recipe.yaml", make_recipe(
        stages=[{"name": "first", "training": {"epochs": 9}}, {"name": "second", "teacher": {"run": "first"}}]))
    recipe = load_recipe(path, ["training.epochs=3", "output=elsewhere"], stage="first")
    assert (recipe.training.epochs, recipe.output, recipe.stages) == (3, "elsewhere", ())
    assert load_recipe(path, stage="second").teacher.model == f"{tmp_path}/run/first/student"


@pytest.mark.parametrize(("stages", "expected"), [
    ([{"name": "first"}, {"name": "second"}], "unknown stage 'fist': did you mean 'first'\\? Known: first, second"),
    ([], "the recipe has no stages"),
    ([{"name": "first"}, {"name": "first"}], r"stages\.1\.name: 'first'"),
    (["first"], "stages"),
])
def test_a_stage_that_is_not_there_is_an_error(
    make_recipe: MakeRecipe, tmp_path: Path, stages: list[Any], expected: str
) -> None:
    path = write_stages(tmp_path / "recipe.yaml", make_recipe(stages=stages))
    with pytest.raises(ConfigError, match=expected):
        load_recipe(path, stage="fist")


def test_stages_that_build_on_one_do_not_change_it(make_recipe: MakeRecipe) -> None:
    trimmed = {"run": "first", "vocabulary": "trimmed"}
    recipe = Recipe.from_dict(make_recipe(stages=[
        {"name": "first"}, {"name": "second", "student": trimmed}, {"name": "third", "student": trimmed}]))
    first, second, third = prepared_stages(recipe)
    assert second.student.config.vocab_size == third.student.config.vocab_size <= first.student.config.vocab_size
    assert first.student is not second.student


def test_a_stage_without_the_task_s_head_cannot_teach_it(make_recipe: MakeRecipe, encoder: str, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("a b c\nd e f\ng h i")
    values = make_recipe(distillation={"matches": None})
    data = values.pop("data")
    values["stages"] = [
        {"name": "plain", "task": "masked-lm", "data": {"train": str(tmp_path / "plain.txt"), "max_length": 16}},
        {"name": "colours", "data": data, "teacher": {"run": "plain"}}]
    with pytest.raises(PlanError, match=r"BertForMaskedLM.*so it cannot teach yet"):
        plan(Recipe.from_dict(values))
