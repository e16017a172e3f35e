"""Columns in one block of memory give back what was put in, whatever it was."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from stillhouse.tasks.base import Examples
from stillhouse.tasks.packed import STRETCH, Column, TextLists, Texts, packed

ODD = ["", "a", "é", "𝄞 clef", "line\nbreak", "\u2028", "\ud800 half", "a", "a", "0"]


def texts(count: int) -> list[str]:
    drawn = random.Random(count)
    return [drawn.choice(ODD) * drawn.randrange(3) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, STRETCH - 1, STRETCH, 2 * STRETCH + 3])
def test_texts_come_back_as_they_were(count: int) -> None:
    wanted = texts(count)
    found = packed(wanted)
    assert list(found) == wanted and found == wanted and len(found) == count
    assert [found[i] for i in range(-count, count)] == wanted * 2
    assert found[1::3] == wanted[1::3] and type(found[:2]) is list
    with pytest.raises(IndexError):
        found[count]
    assert isinstance(found, Texts) == (count > 0)


@pytest.mark.parametrize("count", [1, STRETCH, STRETCH + 7])
def test_lists_of_texts_come_back_as_they_were(count: int) -> None:
    wanted = [texts(i % 5) for i in range(count)]
    found = packed(wanted)
    assert isinstance(found, TextLists)
    assert list(found) == wanted and found[-1] == wanted[-1] and found[2:5] == wanted[2:5]


def test_a_column_is_packed_the_same_in_any_stretches() -> None:
    whole, again = Texts(texts(1000)), Texts.joined([Texts(texts(1000)[:7]), Texts(()), Texts(texts(1000)[7:])])
    assert whole == again and again == whole
    assert whole != Texts(texts(1000)[:-1]) and whole != [*texts(1000)[:-1], "other"]


class _Name(str):
    pass


@pytest.mark.parametrize("odd", [None, 3, 2.5, True, ["a"], ("a",), {"text": "a"}, _Name("x"), [1], [["a"]]])
@pytest.mark.parametrize("where", [0, STRETCH // 2, STRETCH + 1])
def test_one_value_of_another_kind_leaves_all_as_they_are(odd: Any, where: int) -> None:
    wanted: list[Any] = ["t"] * (STRETCH + 2)
    wanted[where] = odd
    found = packed(wanted)
    assert type(found) is list and found == wanted
    assert type(found[where]) is type(odd)


def test_a_column_that_begins_late_has_no_values_before() -> None:
    column = Column(missing=2)
    column.append("a")
    assert len(column) == 3 and column.values() == [None, None, "a"]


def test_packing_takes_a_fraction_of_the_memory() -> None:
    wanted = [f"a sentence of a usual length, number {i}" for i in range(10_000)]
    found = Texts(wanted)
    taken = len(found.content) + found.starts.nbytes + found.ends.nbytes
    assert taken < 0.6 * (sum(map(sys.getsizeof, wanted)) + sys.getsizeof(wanted))


def test_equal_neighbours_are_kept_once() -> None:
    context = "a long text that many questions are asked of " * 20
    assert len(Texts([context] * 50).content) == len(context)


def test_picking_and_joining_keeps_columns_packed() -> None:
    examples = Examples({"text": packed(["a", "b", "c"]), "label": [0, 1, 2]})
    both = examples.pick([2, 0]).followed_by(examples)
    assert isinstance(both["text"], Texts)
    assert list(both["text"]) == ["c", "a", "a", "b", "c"] and list(both["label"]) == [2, 0, 0, 1, 2]
