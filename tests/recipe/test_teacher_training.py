"""Promises of the fine-tuned teacher: how long it took stays known, and a damaged one says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from stillhouse.errors import StoreError
from stillhouse.recipe import Recipe, plan, run
from stillhouse.training import Sink
from stillhouse.training.events import CheckpointSaved, Event

from .conftest import MakeRecipe

pytestmark = pytest.mark.runs


class StopAfterTeacher(Sink):
    """Raises at the first checkpoint of the student, when the teacher is in the store."""

    def __init__(self, teachers: Path) -> None:
        self.teachers = teachers

    def emit(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved) and any(self.teachers.glob("*/teacher.json")):
            raise KeyboardInterrupt


def short(make_recipe: MakeRecipe, **changes: object) -> Recipe:
    model = make_recipe()["teacher"]["model"]
    return Recipe.from_dict(make_recipe(
        teacher={"model": model, "train": {"epochs": 1, "precision": "fp32"}}, training={"epochs": 2}, **changes))


def test_seconds_of_the_teacher_survive_an_interruption_and_the_total_is_their_sum(
    make_recipe: MakeRecipe, tmp_path: Path, cache: Path, console: Console
) -> None:
    recipe = short(make_recipe)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, console=console, sinks=[StopAfterTeacher(cache / "teachers")])
    record = tmp_path / "run" / "checkpoints" / "teacher" / "phase.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps(values | {"seconds_s": 1234.5}))  # no resumed run could need as long
    seconds = run(recipe, console=console, resume=True).metrics["wall_time_s"]
    assert seconds["teacher_training"] == 1234.5
    assert seconds["total"] == pytest.approx(sum(value for name, value in seconds.items() if name != "total"))
    again = run(short(make_recipe, output=str(tmp_path / "again")), console=console).metrics["wall_time_s"]
    assert again["teacher_training"] == 0 and again["total"] < 1000


def test_a_teacher_gone_from_the_store_is_trained_again_on_resume(
    make_recipe: MakeRecipe, tmp_path: Path, cache: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = short(make_recipe)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, console=console, sinks=[StopAfterTeacher(cache / "teachers")])
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "elsewhere"))
    assert run(recipe, console=console, resume=True).metrics["wall_time_s"]["teacher_training"] > 0


def test_a_damaged_stored_teacher_says_which_folder_to_delete(
    make_recipe: MakeRecipe, tmp_path: Path, cache: Path, console: Console
) -> None:
    run(short(make_recipe), console=console)
    weights = next((cache / "teachers").glob("*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    recipe = short(make_recipe, output=str(tmp_path / "second"))
    with pytest.raises(StoreError, match=rf"{weights.parent} is damaged \(.*\); delete that folder") as caught:
        run(recipe, console=console)
    assert "\n" not in str(caught.value) and not (tmp_path / "second").exists()


def test_a_plan_says_that_a_folder_in_use_would_be_refused(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = short(make_recipe)
    assert plan(recipe).splitlines()[-1].endswith(f"  {tmp_path / 'run'}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    last = plan(recipe).splitlines()[-1]
    assert "run would refuse it: " in last and "what no run has written (thesis.tex)" in last
