"""Micro-batches: split, cut into rows, and named by content."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse.batches import (
    as_batch,
    batch_to_device,
    bytes_of,
    ghost_of,
    num_rows,
    row_keys,
    select_rows,
    spans,
    tensors_of,
    to_device,
    windows,
)
from stillhouse.types import BESIDE_INPUTS, Batch

META = torch.device("meta")


def inputs(*rows: list[int], left: bool = False, width: int = 0, pad: int = 0) -> dict[str, Tensor]:
    width = max(width, *map(len, rows))
    fill = [[pad] * (width - len(row)) for row in rows]
    gaps = [[0] * (width - len(row)) for row in rows]
    ids = [f + row if left else row + f for row, f in zip(rows, fill, strict=True)]
    mask = [g + [1] * len(row) if left else [1] * len(row) + g for row, g in zip(rows, gaps, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


# The user's batches


def test_one_batch_serves_both_sides() -> None:
    for raw in ((torch.zeros(2),), {"input_ids": torch.zeros(2)}, {"teacher": torch.zeros(2)}):
        batch = as_batch(raw, "ner")
        assert batch.student is raw and batch.teacher is raw
        assert (batch.task, batch.teacher_outputs, batch.ghost) == ("ner", None, False)


def test_two_batches_are_split() -> None:
    student, teacher, outputs = (torch.zeros(1),), (torch.zeros(2),), object()
    batch = as_batch({"student": student, "teacher": teacher, "teacher_cache": outputs})
    assert batch.student is student and batch.teacher is teacher and batch.teacher_outputs is outputs
    assert as_batch({"student": student, "teacher": teacher}).teacher_outputs is None


def test_tensors_move_wherever_they_are_nested() -> None:
    value = {"a": torch.zeros(1), "b": [torch.zeros(1), (torch.zeros(1), "text")], "c": None, 3: 4}
    moved = to_device(value, META)
    assert moved["a"].device == moved["b"][0].device == moved["b"][1][0].device == META
    assert moved["b"][1][1] == "text" and moved["c"] is None and moved[3] == 4


def test_what_is_on_the_device_is_not_copied() -> None:
    tensor = torch.zeros(3)
    assert to_device([tensor], torch.device("cpu"))[0] is tensor


def test_one_batch_stays_one_on_the_device() -> None:
    raw, other = {"x": torch.zeros(2)}, {"x": torch.zeros(2)}
    shared = batch_to_device(Batch(raw, raw), META)
    assert shared.student is shared.teacher and shared.student["x"].device == META
    apart = batch_to_device(Batch(raw, other, task="t"), META)
    assert apart.teacher is other and apart.student["x"].device == META and apart.task == "t"


def test_a_ghost_is_the_same_batch_that_counts_for_nothing() -> None:
    batch = Batch((torch.zeros(2),), (torch.zeros(2),), task="t")
    ghost = ghost_of(batch)
    assert ghost.ghost and not batch.ghost and ghost.student is batch.student and ghost.task == "t"


@pytest.mark.parametrize(("number", "size", "found"), [(5, 2, [[0, 1], [2, 3], [4]]), (4, 2, [[0, 1], [2, 3]]),
                                                       (2, 5, [[0, 1]]), (0, 3, []), (2, 1, [[0], [1]])])
def test_windows_are_full_but_the_last(number: int, size: int, found: list[list[int]]) -> None:
    assert list(windows(iter(range(number)), size)) == found


# Rows


def test_tensors_have_names_in_a_fixed_order() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert [name for name, _ in tensors_of({"b": one, "a": two, "c": "text"})] == ["a", "b"]
    assert [(name, t is one) for name, t in tensors_of((one, "text", two))] == [("0", True), ("2", False)]
    assert tensors_of(one)[0][1] is one


@pytest.mark.parametrize(("value", "rows"), [
    ({"a": torch.zeros(3, 2), "b": torch.zeros(3)}, 3), ((torch.zeros(3, 2), None), 3), (torch.zeros(4, 1), 4),
    ({"a": torch.zeros(3, 2), "b": torch.zeros(2)}, None), ({"a": torch.zeros(3), "b": torch.tensor(1.0)}, None),
    ({"a": torch.zeros(3), "b": "text"}, None), ({"a": torch.zeros(3), "b": None}, 3), ({}, None), ((), None),
    (torch.tensor(1.0), None), (("text",), None),
])
def test_there_are_rows_where_every_tensor_agrees(value: Any, rows: int | None) -> None:
    assert num_rows(value) == rows


def test_rows_are_selected_in_the_order_asked() -> None:
    ids, scores = torch.arange(6).reshape(3, 2), torch.arange(3.0)
    picked = select_rows({"ids": ids, "scores": scores, "none": None}, [2, 0, 2])
    assert picked["ids"].tolist() == [[4, 5], [0, 1], [4, 5]] and picked["scores"].tolist() == [2, 0, 2]
    assert picked["none"] is None
    assert [t.tolist() for t in select_rows((ids, scores), [1])] == [[[2, 3]], [1]]
    assert select_rows(scores, [1, 1]).tolist() == [1, 1]


def test_spans_run_from_the_first_to_the_last_kept_position() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]])
    found = spans({"attention_mask": mask})
    assert found == [slice(0, 2), slice(1, 4), slice(1, 4), slice(0, 4), slice(2, 3)]
    assert spans({"input_ids": mask}) is None and spans((mask,)) is None


def test_a_row_of_choices_spans_its_longest_choice() -> None:
    mask = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 1, 0]], [[0, 0, 0, 1], [0, 1, 1, 1]]])
    assert spans({"attention_mask": mask}) == [slice(0, 2), slice(0, 3), slice(1, 4)]


# Names of rows


def test_a_row_has_one_name_in_any_batch_and_any_padding_to_the_right() -> None:
    alone, = row_keys(inputs([5, 6]))
    assert row_keys(inputs([7, 8, 9], [5, 6]))[1] == alone
    assert row_keys(inputs([5, 6], [1], width=9, pad=1))[0] == alone
    assert len(alone) == 16


def test_padding_to_the_left_moves_positions_and_changes_the_name() -> None:
    unpadded = row_keys(inputs([5, 6]))
    assert row_keys(inputs([5, 6], width=2, left=True)) == unpadded
    names = {row_keys(inputs([5, 6], width=width, left=True))[0] for width in (2, 3, 4)}
    assert len(names) == 3
    assert row_keys(inputs([5, 6], [1], width=4, left=True))[0] in names


def test_different_rows_have_different_names() -> None:
    base = inputs([5, 6, 7])
    ids, mask = base["input_ids"], base["attention_mask"]
    others = [inputs([5, 6, 8]), inputs([5, 6]), inputs([5, 6, 7, 0]), {"input_ids": ids}, {"ids": ids, "mask": mask},
              {**base, "attention_mask": torch.tensor([[1, 0, 1]])}, {**base, "input_ids": ids.int()},
              {**base, "token_type_ids": torch.zeros(1, 3, dtype=torch.long)}]
    assert len({row_keys(value)[0] for value in [base, *others]}) == 1 + len(others)


def test_values_do_not_run_from_one_tensor_into_the_next() -> None:
    one, two = (torch.tensor([[1, 2]]), torch.tensor([[3]])), (torch.tensor([[1]]), torch.tensor([[2, 3]]))
    assert row_keys(one) != row_keys(two)


def test_labels_do_not_change_the_name() -> None:
    base = inputs([5, 6, 7])
    assert row_keys({**base, "labels": torch.tensor([1])}) == row_keys(base)
    for name in BESIDE_INPUTS:
        for value in (torch.tensor([1]), torch.ones_like(base["input_ids"])):
            assert row_keys({**base, name: value}) == row_keys(base)
    assert row_keys({**base, "gold": torch.tensor([1])}) != row_keys(base)
    assert row_keys({**base, "gold": torch.tensor([1])}, exclude=["gold"]) == row_keys(base)


def test_side_inputs_are_never_cut_as_if_they_were_positions() -> None:
    base = inputs([5, 6], width=3)
    first, second = ({**base, "features": torch.tensor([[1, 2, last]])} for last in (3, 4))
    assert row_keys(first) != row_keys(second)


def test_token_type_ids_and_embeddings_are_cut_with_the_tokens() -> None:
    def with_types(width: int) -> dict[str, Tensor]:
        types = torch.tensor([[0, 1] + [0] * (width - 2)])
        return {**inputs([5, 6], width=width), "token_type_ids": types}

    assert row_keys(with_types(2)) == row_keys(with_types(5))
    mask = inputs([5, 6], width=5)["attention_mask"]
    embeds = torch.randn(1, 5, 3)
    whole = row_keys({"inputs_embeds": embeds, "attention_mask": mask})
    assert row_keys({"inputs_embeds": embeds[:, :2], "attention_mask": mask[:, :2]}) == whole


def test_where_an_answer_may_be_is_part_of_the_name_and_cut_with_the_tokens() -> None:
    def with_spans(width: int, last: int) -> dict[str, Tensor]:
        return {**inputs([5, 6, 7], width=width), "span_mask": torch.tensor([[0, 1, last] + [0] * (width - 3)])}

    assert row_keys(with_spans(3, 1)) == row_keys(with_spans(6, 1)) != row_keys(with_spans(3, 0))


def test_a_row_of_choices_has_one_name_in_any_batch_and_is_all_of_them() -> None:
    def choices(*rows: list[list[int]], width: int = 0) -> dict[str, Tensor]:
        width = max(width, *(len(text) for row in rows for text in row))
        flat = inputs(*(text for row in rows for text in row), width=width)
        return {name: value.view(len(rows), -1, width) for name, value in flat.items()}

    row, longer = [[5, 6], [7]], [[1], [2, 3, 4]]
    alone, = row_keys(choices(row))
    assert row_keys(choices(longer, row))[1] == row_keys(choices(row, width=9))[0] == alone
    others = [[[5, 6], [8]], [[7], [5, 6]], [[5, 6], [7, 0]], [[5], [6, 7]]]
    assert len({alone, *(row_keys(choices(other))[0] for other in others)}) == 1 + len(others)
    embeds = torch.randn(1, 2, 5, 3)
    mask = choices(row, width=5)["attention_mask"]
    assert row_keys({"inputs_embeds": embeds, "attention_mask": mask}) == row_keys(
        {"inputs_embeds": embeds[:, :, :2], "attention_mask": mask[:, :, :2]})


def test_a_mask_of_pairs_leaves_the_tokens_whole() -> None:
    pairs = torch.tensor([[[1, 0, 0], [1, 1, 0], [0, 0, 0]]])  # (rows, positions, positions)
    names = {row_keys({"input_ids": torch.tensor([[5, 6, last]]), "attention_mask": pairs})[0] for last in (0, 1)}
    assert len(names) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.uint8, torch.int64])
def test_bytes_are_those_in_memory(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 0], [3, 4, 5]]).to(dtype)
    assert bytes_of(tensor.t()) == bytes_of(tensor.t().contiguous()) != bytes_of(tensor)
    assert len(bytes_of(tensor)) == 6 * tensor.element_size()
    assert bytes_of(torch.tensor(7, dtype=torch.uint8)) == b"\x07" and bytes_of(torch.empty(0, 3, dtype=dtype)) == b""
