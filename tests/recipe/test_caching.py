"""Promises of the choice of a cache, made before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from stillhouse.errors import ConfigError
from stillhouse.recipe.cache_size import AnswerSizes
from stillhouse.recipe.caching import CachePlan, plan_cache, readable_bytes
from stillhouse.types import LOGITS, Key

KEYS = [LOGITS, Key("hidden", 0), Key("hidden", 2)]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def choose(choice: str, **changes: Any) -> CachePlan:
    values: dict[str, Any] = {
        "dtype_name": "auto", "compute_dtype": None, "fingerprint": "teacher", "keys": KEYS,
        "sizes": AnswerSizes("rows", lambda key: 3 if key == LOGITS else 16, np.full(1000, 10))}
    return plan_cache(choice, **{**values, **changes})


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> Path:
    return cache


def test_auto_takes_the_disk_while_it_needs_at_most_half_of_what_is_free(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = choose("auto").total_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 2 * needed))
    plan = choose("auto")
    assert plan.kind == "disk" and plan.folder is not None and plan.folder.is_relative_to(own_cache / "signals")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 2 * needed - 10))
    plan = choose("auto")
    assert plan.kind == "off" and "it would take" in plan.description and "cache: FOLDER" in plan.description
    assert not own_cache.exists()


def test_what_is_stored_already_needs_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = choose("auto").folder
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / "data.mdb").write_bytes(bytes(choose("auto").total_bytes))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    assert choose("auto").kind == "disk"


def test_the_estimate_counts_every_tensor_in_its_type() -> None:
    full, half = choose("memory"), choose("memory", dtype_name="bf16")
    values = 3 + 2 * 10 * 16
    assert full.bytes_per_row - half.bytes_per_row == 2 * (values + 1)  # 4 times 3 bytes are filled up to 16
    assert full.bytes_per_row == 4 * (values + 1) + 3 * (16 + 16) + 16 + 2 * 24
    assert full.total_bytes == 1000 * full.bytes_per_row
    assert half.dtype is torch.bfloat16


def test_each_choice_is_said_in_a_line(tmp_path: Path) -> None:
    assert choose("off").description == "teacher cache: off"
    said = choose("memory").description
    assert said.startswith("teacher cache: in memory, about 1.5 kB a row, 1.5 MB in all, as float32")
    assert str(tmp_path) in choose(str(tmp_path)).description
    assert "nothing is asked" in choose("auto", keys=[]).description


def test_the_stored_type_is_the_one_computed_in() -> None:
    assert choose("auto", compute_dtype=torch.bfloat16).dtype is torch.bfloat16
    assert choose("auto", compute_dtype=torch.bfloat16, dtype_name="fp32").dtype is torch.float32
    assert choose("auto").dtype is torch.float32


def test_teachers_do_not_share_a_folder() -> None:
    assert choose("auto", fingerprint="other").folder != choose("auto").folder == choose("auto").folder


def test_a_file_is_no_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        choose(str(tmp_path / "file"))


def test_bytes_are_readable() -> None:
    found = [readable_bytes(count) for count in (7, 1500, 2e6, 3.21e9, 4e13)]
    assert found == ["7 bytes", "1.5 kB", "2.0 MB", "3.2 GB", "40.0 TB"]
