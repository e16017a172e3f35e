"""Promises of the choice of a cache, made before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from stillhouse.cache_use import notes
from stillhouse.errors import ConfigError
from stillhouse.recipe.cache_size import AnswerSizes
from stillhouse.recipe.caching import CachePlan, CacheWish, plan_cache
from stillhouse.teachers import NoTeacher
from stillhouse.types import LOGITS, Key
from stillhouse.units import parse_bytes, readable_bytes

KEYS = [LOGITS, Key("hidden", 0), Key("hidden", 2)]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def choose(choice: str, dtype_name: str = "auto", budget: str | None = None, **changes: Any) -> CachePlan:
    values: dict[str, Any] = {
        "compute_dtype": None, "fingerprint": "teacher", "keys": KEYS,
        "sizes": AnswerSizes("rows", lambda key: 3 if key == LOGITS else 16, np.full(1000, 10))}
    return plan_cache(CacheWish(choice, dtype_name, budget), **{**values, **changes})


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
    header = 16 + 3 * (16 + 8) + 8 * (1 + 2 + 2)  # of the record, and of each tensor, which says its shape
    assert full.bytes_per_row == 4 * (values + 1) + header + 16  # and the row's name
    assert full.total_bytes == 1000 * full.bytes_per_row
    assert half.dtype is torch.bfloat16


def test_each_choice_is_said_in_a_line(tmp_path: Path) -> None:
    assert choose("off").description == "teacher cache: off"
    said = choose("memory").description
    assert said.startswith("teacher cache: in memory, about 1.4 kB a row, 1.4 MB in all, as float32")
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


def between(smaller: str, larger: str, choice: str = "auto") -> str:
    """A budget in the middle of what two types take."""
    return f"{(choose(choice, smaller).total_bytes + choose(choice, larger).total_bytes) // 2} bytes"


def test_what_is_within_the_budget_is_kept_as_it_is() -> None:
    needed = choose("auto").total_bytes
    plan = choose("auto", budget=f"{needed} bytes")
    assert (plan.kind, plan.dtype, plan.total_bytes) == ("disk", torch.float32, needed)
    assert f"in all of a budget of {readable_bytes(needed)}, as float32" in plan.description


@pytest.mark.parametrize("has_name", [True, False])
def test_over_the_budget_single_precision_becomes_bfloat16_if_that_fits(has_name: bool) -> None:
    budget = between("bf16", "fp32", "auto" if has_name else "memory")
    plan = choose("auto", budget=budget, has_name=has_name)
    assert (plan.kind, plan.dtype) == ("disk" if has_name else "memory", torch.bfloat16)
    assert plan.total_bytes <= parse_bytes(budget) < choose("auto").total_bytes
    assert ", as bfloat16, for as float32 they would take " in plan.description
    assert f"and the budget is {readable_bytes(parse_bytes(budget))}" in plan.description


@pytest.mark.parametrize("changes", [{"dtype_name": "fp32"}, {"dtype_name": "fp16"},
                                     {"compute_dtype": torch.bfloat16}, {}])
def test_what_fits_in_no_allowed_type_is_not_kept_and_the_plan_says_what_would(changes: dict[str, Any]) -> None:
    plan = choose("auto", budget=between("int8", "bf16"), **changes)
    assert plan.kind == "off" and plan.folder is None
    said = plan.description
    assert said.startswith("teacher cache: off, for the answers would take ")
    assert "cache_dtype: int8 (" in said and "cache_dtype: bf16" not in said
    assert "fewer layers" in said and "a larger budget" in said


def test_a_type_in_the_recipe_is_not_exchanged_for_another() -> None:
    plan = choose("auto", "fp32", budget=between("bf16", "fp32"))
    assert plan.kind == "off" and "cache_dtype: bf16 (" in plan.description
    assert choose("auto", "int8", budget=between("int8", "bf16")).dtype is torch.int8


def test_logits_alone_cannot_have_fewer_layers() -> None:
    assert "layers" not in choose("auto", budget="1 kB", keys=[LOGITS]).description


@pytest.mark.parametrize("choice", ["memory", "./answers"])
def test_a_chosen_place_that_is_over_the_budget_is_refused(choice: str) -> None:
    budget = between("bf16", "fp32", choice)
    with pytest.raises(ConfigError, match=r"^cache_budget: the answers would take .* as float32 and the budget "
                                          r"is .*; write cache_dtype: bf16 \(.*\), or cache_dtype: int8 \(.*larger"):
        choose(choice, budget=budget)
    assert choose(choice, "bf16", budget=budget).kind == ("memory" if choice == "memory" else "disk")
    assert choose("off", budget="0").kind == "off"


def test_a_full_disk_never_changes_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a student learns must not depend on how much else lies on the disk."""
    free = 2 * choose("auto", "bf16").total_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    plan = choose("auto", budget="1 TB")
    assert plan.kind == "off" and "stillhouse cache prune" in plan.description
    assert "write cache_dtype: bf16 (" in plan.description
    assert choose("auto", "bf16").kind == "disk"


def test_the_store_says_whose_answers_it_holds(tmp_path: Path) -> None:
    plan = choose(str(tmp_path / "answers"), "bf16", about={"teacher": "bert, fine-tuned", "task": "sorting"})
    for _ in range(2):
        _, store = plan.wrap(NoTeacher())
        assert store is not None
        store.close()
    assert notes(tmp_path / "answers") == [{"teacher": "bert, fine-tuned", "task": "sorting", "dtype": "bfloat16"}]


def test_of_a_byte_a_value_each_vector_has_a_scale_and_logits_are_float16() -> None:
    full, small = choose("memory").bytes_per_row, choose("memory", "int8").bytes_per_row
    logits, layer = 8, 10 * 16 + 10 * 4 + 16 + 8 + 2 * 8  # the scales are a tensor more, which says its shape
    assert full - small == 4 * (3 + 1 + 2 * 10 * 16) - (logits + 2 * layer)


def test_of_types_that_take_the_same_the_exacter_one_is_advised() -> None:
    needed = choose("auto", "fp16", keys=[LOGITS]).total_bytes
    said = choose("auto", "fp32", budget=f"{needed} bytes", keys=[LOGITS]).description
    assert "bf16" in said and "int8" not in said
