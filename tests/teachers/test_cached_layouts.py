"""A cache of values that lie otherwise than (rows, positions, ...): of choices, and of starts and ends of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMultipleChoice, BertForQuestionAnswering

from stillhouse.adaptors import FunctionAdaptor, HuggingFaceAdaptor
from stillhouse.batches import as_batch
from stillhouse.errors import OutputError
from stillhouse.teachers import CachedTeacher, LiveTeacher
from stillhouse.teachers.stores import MemoryStore
from stillhouse.types import ALL_LOGITS, ATTENTION_SCORES, LOGITS, Batch, Key

END, HIDDEN, MAPS = Key("logits", 1), Key("hidden", 1), Key("attention", 0)


def live(kind: Any, logits: Any) -> LiveTeacher:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                        attn_implementation="eager")
    return LiveTeacher(kind(config).eval(), HuggingFaceAdaptor(logits))


def padded(rows: Sequence[Sequence[int]], width: int, left: bool = False) -> dict[str, Tensor]:
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


# Spans

ROWS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [16, 17, 18, 19], [20, 21]]


def spans(rows: Sequence[Sequence[int]], width: int) -> Batch:
    inputs = padded(rows, width)
    allowed = inputs["attention_mask"].clone()
    allowed[:, 1] = 0
    return as_batch({**inputs, "span_mask": allowed})


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_start_and_an_end_are_kept_position_by_position(dtype: torch.dtype | None) -> None:
    teacher, keys = live(BertForQuestionAnswering, "spans"), frozenset({LOGITS, END})
    cached = CachedTeacher(teacher, MemoryStore(), dtype)
    cached.signals(spans(ROWS[:3], 5), keys)
    cached.signals(spans(ROWS[3:], 4), keys)
    assert cached.rows_forwarded == 5
    wide = spans(ROWS[::-1], 9)
    found = cached.signals(wide, keys)
    assert cached.rows_forwarded == 5
    tolerance = 1e-5 if dtype is None else 1e-3
    for key, expected in teacher.signals(wide, keys).items():
        torch.testing.assert_close(found[key].float(), expected, atol=tolerance, rtol=tolerance)
        assert found[key].isneginf().equal(wide.teacher["span_mask"].eq(0)), "no answer in padding"
    assert set(cached.signals(wide, frozenset({ALL_LOGITS}))) == set(keys)


# Choices

CHOICES = [[[5, 6], [7, 8, 9]], [[10], [11]], [[12, 13, 14, 15], [16]]]


def choices(rows: Sequence[Sequence[Sequence[int]]], width: int, left: bool = False) -> Batch:
    flat = padded([text for row in rows for text in row], width, left)
    return as_batch({name: value.view(len(rows), -1, width) for name, value in flat.items()})


@pytest.mark.parametrize("left", [False, True])
def test_layers_of_choices_are_kept_with_their_row(left: bool) -> None:
    keys = frozenset({LOGITS, HIDDEN, MAPS, Key(ATTENTION_SCORES, 0)})
    teacher = live(BertForMultipleChoice, "choices")
    cached = CachedTeacher(teacher, MemoryStore())
    cached.signals(choices(CHOICES[:2], 6, left), keys)
    cached.signals(choices(CHOICES[2:], 6, left), keys)
    assert cached.rows_forwarded == 3
    batch = choices(CHOICES[::-1], 6, left) if left else choices(CHOICES[::-1], 8)
    found = cached.signals(batch, keys)
    assert cached.rows_forwarded == 3
    kept = batch.teacher["attention_mask"].flatten(0, 1).ne(0)
    pairs = (kept[:, None, :, None] & kept[:, None, None, :]).expand(-1, 2, -1, -1)
    where = {LOGITS: ..., HIDDEN: kept}
    for key, expected in teacher.signals(batch, keys).items():
        place: Any = where.get(key, pairs)
        assert found[key].shape == expected.shape
        torch.testing.assert_close(found[key][place], expected[place], atol=1e-5, rtol=1e-5)


def test_layers_that_are_not_one_for_each_choice_are_refused() -> None:
    def first_choice(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": torch.zeros(3, 2), "hidden": [torch.zeros(3, 4, 8)]}

    class Silent(nn.Module):
        def forward(self, **inputs: Tensor) -> None:
            pass

    cached = CachedTeacher(LiveTeacher(Silent(), FunctionAdaptor(first_choice, version="1")), MemoryStore())
    batch = choices(CHOICES, 4)
    with pytest.raises(OutputError, match=r"hidden\[0\] of shape \(3, 4, 8\).*should start with 6 rows and cover 4"):
        cached.signals(batch, frozenset({Key("hidden", 0)}))
    assert cached.signals(batch, frozenset({LOGITS}))[LOGITS].shape == (3, 2)


def test_a_mask_of_pairs_is_none_of_choices() -> None:
    """An attention mask of (rows, positions, positions) beside token ids of (rows, positions)."""
    def states(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"hidden": [batch["input_ids"].unsqueeze(-1).float()]}

    class Silent(nn.Module):
        def forward(self, **inputs: Tensor) -> None:
            pass

    cached = CachedTeacher(LiveTeacher(Silent(), FunctionAdaptor(states, version="1")), MemoryStore())
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.ones(2, 4, 4, dtype=torch.long)
    mask[1, :, 2:] = 0
    batch, key = as_batch({"input_ids": ids, "attention_mask": mask}), Key("hidden", 0)
    for _ in range(2):
        assert cached.signals(batch, frozenset({key}))[key].squeeze(-1).equal(ids.float())
    assert cached.rows_forwarded == 2
