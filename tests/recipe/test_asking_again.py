"""Promises of the estimate whether a GPU answers faster than its answers are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMultipleChoice, BertForSequenceClassification

from stillhouse.recipe.asking_again import Asking, Gpu, asking
from stillhouse.recipe.cache_size import AnswerSizes
from stillhouse.recipe.caching import CachePlan, CacheWish, plan_cache
from stillhouse.types import LOGITS, Key

H100, T4 = Gpu(132, (9, 0)), Gpu(40, (7, 5))
FIVE_LAYERS = [LOGITS, *(Key("hidden", index) for index in (0, 3, 6, 9, 12))]


@pytest.fixture(scope="module")
def bert() -> BertForSequenceClassification:
    with torch.device("meta"):
        return BertForSequenceClassification(BertConfig())


def on(gpu: Gpu | None, bert: BertForSequenceClassification, tokens: int, batch_size: int, *, passes: float = 10,
       dtype: torch.dtype | None = torch.bfloat16) -> Asking | None:
    return asking([bert], gpu, dtype, text_tokens=tokens, batch_size=batch_size, passes=passes)


def plan(found: Asking | None, tokens: int, choice: str = "auto", keys: list[Key] = FIVE_LAYERS) -> CachePlan:
    sizes = AnswerSizes("rows", lambda key: 2 if key == LOGITS else 768, np.full(10, tokens))
    return plan_cache(CacheWish(choice), torch.bfloat16, "teacher", keys, sizes, asking=found)


@pytest.mark.parametrize(("tokens", "batch_size", "measured_s"),
                         [(128, 512, 0.039), (128, 128, 0.0145), (13, 512, 0.0145)])
def test_the_estimate_is_near_what_was_measured_on_an_h100(
    bert: BertForSequenceClassification, tokens: int, batch_size: int, measured_s: float
) -> None:
    found = on(H100, bert, tokens, batch_size)
    assert found is not None and 0.7 < found.seconds_per_row * batch_size / measured_s < 1.3


def test_long_rows_are_asked_again_on_a_fast_card_and_kept_on_others(bert: BertForSequenceClassification) -> None:
    asked = plan(on(H100, bert, 128, 512), 128)
    assert asked.kind == "off" and "answers again sooner" in asked.description
    assert plan(on(T4, bert, 128, 512), 128).kind == "disk"
    assert plan(on(H100, bert, 128, 512, dtype=None), 128).kind == "disk", "float32 is slow"
    assert plan(on(None, bert, 128, 512), 128).kind == "disk", "a CPU"
    assert plan(on(Gpu(132, (3, 5)), bert, 128, 512), 128).kind == "disk", "a card that nobody measured"


def test_what_is_small_to_read_is_kept(bert: BertForSequenceClassification) -> None:
    assert plan(on(H100, bert, 128, 512), 128, keys=[LOGITS]).kind == "disk"
    assert plan(on(H100, bert, 13, 32), 13).kind == "disk", "a small batch takes as long as a larger one"


def test_each_choice_of_a_row_is_asked_about() -> None:
    with torch.device("meta"):
        chooser = BertForMultipleChoice(BertConfig())
    one, four = (asking([chooser], H100, torch.bfloat16, text_tokens=128, batch_size=512, passes=10, choices=choices)
                 for choices in (1, 4))
    assert one is not None and four is not None
    assert four.seconds_per_row == pytest.approx(4 * one.seconds_per_row)


def test_a_folder_that_is_named_is_used(bert: BertForSequenceClassification, tmp_path: object) -> None:
    assert plan(on(H100, bert, 128, 512), 128, choice=str(tmp_path)).kind == "disk"


def test_filling_the_store_counts_less_the_more_passes_read_it() -> None:
    per_row_s = 1e6 / 2.2e9  # between reading, 3 GB/s, and filling
    assert Asking(per_row_s, passes=2).is_faster_than_reading(1e6)
    assert not Asking(per_row_s, passes=50).is_faster_than_reading(1e6)
    assert Asking(per_row_s, passes=1).is_faster_than_reading(1e6), "one pass counts as two"
    assert not Asking(1.0, passes=1).is_faster_than_reading(1e6)
