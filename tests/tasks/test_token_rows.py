"""Rows of numbers in one block are the rows that went in."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest

from stillhouse.tasks.token_rows import TokenRows

ROWS = [[5, 6, 7], [], [8], [300, -100, 9], []]


def test_rows_come_back_as_lists_by_number_slice_and_iteration() -> None:
    rows = TokenRows(ROWS)
    assert len(rows) == 5 and list(rows) == ROWS
    assert rows[3] == [300, -100, 9] and rows[-1] == [] and rows[1:4] == ROWS[1:4]
    assert rows.lengths.tolist() == [3, 0, 1, 3, 0]
    with pytest.raises(IndexError):
        rows[5]


def test_rows_taken_lie_one_after_another_in_any_order_and_number() -> None:
    rows = TokenRows(ROWS)
    assert rows.taken([3, 0, 1, 3]).tolist() == [300, -100, 9, 5, 6, 7, 300, -100, 9]
    assert rows.taken([]).dtype == rows.taken([0]).dtype == np.int64


def test_joined_rows_are_those_of_all_parts_whatever_types_they_have() -> None:
    draw = random.Random(0)
    parts = [[[draw.randrange(-3, limit) for _ in range(draw.randrange(6))] for _ in range(7)]
             for limit in (5, 200, 70_000, 2**40)]
    joined = TokenRows.joined([TokenRows(part) for part in parts])
    rows = list(chain.from_iterable(parts))
    assert list(joined) == rows
    assert joined == TokenRows(rows) and joined != TokenRows(parts[0])
    assert list(TokenRows.joined([])) == []


@pytest.mark.parametrize(("highest", "num_bytes"), [(127, 1), (128, 2), (32_767, 2), (32_768, 4), (2**31, 8)])
def test_numbers_take_the_bytes_that_they_need(highest: int, num_bytes: int) -> None:
    assert TokenRows([[0, highest]]).flat.itemsize == num_bytes
