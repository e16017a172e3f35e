"""Promises of the run folder when something goes wrong: nothing half-written, and what can go on is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stillhouse import plugins
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


def test_a_resume_with_a_changed_plugin_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.py", tmp_path / "other.py"
    mine.write_text("FACTOR = 1\n")
    other.write_text("")
    values = make_recipe(plugins=[str(mine), str(other)])

    def opened(resume: bool = True, overwrite: bool = False) -> None:
        plugins.load_files([mine, other])
        with RunFolder(Recipe.from_dict(values), resume=resume, overwrite=overwrite).opened():
            pass

    opened(resume=False)
    opened()
    mine.write_text("FACTOR = 2\n")
    with pytest.raises(ConfigError, match=r"plugins: \S+mine.py: not the same .*bring the old .* --overwrite"):
        opened()
    mine.write_text("FACTOR = 1\n")
    opened()
    mine.write_text("FACTOR = 2\n")
    opened(resume=False, overwrite=True)
    opened()
    (tmp_path / "run" / "plugins.json").unlink()  # as after a kill before it was written
    opened()
    assert (tmp_path / "run" / "plugins.json").exists()


def test_a_plugin_that_is_gone_is_not_the_same(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.touch()
    recipe = Recipe.from_dict(make_recipe(plugins=[str(mine)]))
    with RunFolder(recipe, resume=False, overwrite=False).opened():
        mine.unlink()
    with pytest.raises(ConfigError, match=r"plugins: .*mine.py"):
        RunFolder(recipe, resume=True, overwrite=False)


def test_a_run_without_plugins_writes_nothing_about_them(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = folder_of(make_recipe, tmp_path / "run")
    with folder.opened():
        assert [path.name for path in folder.path.iterdir()] == ["recipe.yaml"]


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
