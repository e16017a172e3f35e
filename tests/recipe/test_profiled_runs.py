"""Promises of a run with a profile: a table, two files, the same student, and a clear no where it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from stillhouse import cli
from stillhouse.errors import PlanError
from stillhouse.recipe import Recipe, run

from .conftest import MakeRecipe

pytestmark = pytest.mark.runs
TEACHER = {"epochs": 1, "batch_size": 16, "precision": "fp32"}


@pytest.fixture
def quick(make_recipe: MakeRecipe, encoder: str) -> Callable[..., Recipe]:
    """A recipe of 18 steps whose teacher learns little."""
    def make(**training: object) -> Recipe:
        return Recipe.from_dict(make_recipe(teacher={"model": encoder, "train": TEACHER},
                                            training={"epochs": 3, **training}))

    return make


def test_a_profiled_run_tells_where_the_time_went_and_gives_the_same_student(
    quick: Callable[..., Recipe], console: Console, tmp_path: Path
) -> None:
    result = run(quick(), console=console, profile_steps=8)
    found = json.loads((result.output / "profile" / "profile.json").read_text())
    assert found["steps"] == 8 and found["rows_per_step"] == 16
    assert set(found["phases"]) >= {"data", "teacher", "student", "losses", "backward", "optimizer", "checkpoints"}
    assert "cache" in found["phases"].keys() | found["beside"].keys()
    assert (result.output / "profile" / "trace.json").stat().st_size > 0
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "8 steps of 16.0 rows on cpu in fp32" in said and "\nbackward " in said
    assert f"profile: {result.output}/profile" in said

    profiled = load_file(result.student_dir / "model.safetensors")
    plain = load_file(run(quick(), console=console, overwrite=True).student_dir / "model.safetensors")
    assert all(plain[name].equal(profiled[name]) for name in plain)
    assert not (result.output / "profile").exists()


def test_a_run_too_short_for_its_profile_is_refused_and_nothing_is_written(
    quick: Callable[..., Recipe], console: Console, cache: Path
) -> None:
    recipe = quick()
    with pytest.raises(PlanError, match=r"takes 28 .* there are 18; measure at most 10, or train longer"):
        run(recipe, console=console, profile_steps=20)
    assert not Path(recipe.output).exists() and not cache.exists()


@pytest.mark.filterwarnings("default:the student is trained already")
def test_the_command_line_asks_for_a_profile_of_one_run(
    write_recipe: Callable[..., str], encoder: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write_recipe(teacher={"model": encoder, "train": TEACHER}, training={"epochs": 3})
    assert cli.main(["run", path, "--profile"]) == 2
    assert "a profile of 20 steps takes 28" in capsys.readouterr().err
    assert cli.main(["run", path, "--profile-steps", "2", "--seeds", "0,1"]) == 2
    assert "--profile measures one run; leave --seeds out" in capsys.readouterr().err
    assert cli.main(["run", path, "--profile-steps", "0"]) == 2
    capsys.readouterr()
    assert cli.main(["run", path, "--profile-steps", "2"]) == 0
    said = capsys.readouterr().err
    assert "2 steps of 16.0 rows" in said and "\na step " in said
    assert {file.name for file in (tmp_path / "run" / "profile").iterdir()} == {"profile.json", "trace.json"}
    assert cli.main(["run", path, "--profile-steps", "2", "--resume"]) == 0
    assert "finished already, so that nothing was measured; --overwrite runs it again" in capsys.readouterr().err
    (tmp_path / "run" / "metrics.json").unlink()
    assert cli.main(["run", path, "--profile-steps", "2", "--resume"]) == 0
    assert "the student is trained already, so that nothing was measured" in capsys.readouterr().err
