"""Promises of the run folder when something goes wrong: nothing half-written, and what can go on is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe
from stillhouse.recipe.run_folder import RunFolder

from .conftest import MakeRecipe


def folder_of(make_recipe: MakeRecipe, output: Path) -> RunFolder:
    return RunFolder(Recipe.from_dict(make_recipe(output=str(output))), resume=False, overwrite=False)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("device-side assert")])
def test_whatever_goes_wrong_no_empty_run_is_left(make_recipe: MakeRecipe, tmp_path: Path, error: Exception) -> None:
    folder = folder_of(make_recipe, tmp_path / "deep" / "run")
    with pytest.raises(type(error)) as caught, folder.opened():
        assert yaml.safe_load((folder.path / "recipe.yaml").read_text())["task"] == "text-classification"
        raise error
    assert caught.value is error and not (tmp_path / "deep").exists()


def test_after_any_error_checkpoints_are_kept(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = folder_of(make_recipe, tmp_path / "run")
    with pytest.raises(RuntimeError, match="lost"), folder.opened():
        checkpoint = folder.phase("student", []).checkpoints_dir / "gs4"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").touch()
        raise RuntimeError("the device is lost")
    assert (folder.path / "recipe.yaml").exists() and checkpoint.exists()


def test_a_folder_below_a_file_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output: .*file/a/run cannot be made, for .*file is a file"):
        folder_of(make_recipe, tmp_path / "file" / "a" / "run")


def test_a_folder_that_cannot_be_made_is_an_error_of_the_output(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(make_recipe, tmp_path / "run")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(ConfigError, match=r"output: .*run cannot be used: Permission denied"), folder.opened():
        pass
    with pytest.raises(ConfigError, match=r"output: .* cannot be used"):
        folder_of(make_recipe, tmp_path / ("long" * 100))
