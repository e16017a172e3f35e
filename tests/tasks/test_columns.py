"""Promises of columns: values as they stand in the file, and whatever is wrong named by file, row and column."""

from __future__ import annotations

import math
from typing import Any

import pytest

from stillhouse.errors import DataError
from stillhouse.tasks.columns import numbers, place, text_lists, texts
from stillhouse.tasks.data_files import Rows


def rows(*values: Any, **more: Any) -> Rows:
    return Rows("data.jsonl", {"c": values}, **more)


def test_texts_are_left_as_they_are() -> None:
    assert texts(rows(" a\n", "", "\u2028\U0001f600"), "c") == [" a\n", "", "\u2028\U0001f600"]


@pytest.mark.parametrize(("bad", "problem"), [
    (None, "there is no text; every row needs a text"),
    (3, "3 is of type int; every row needs a text"),
    (["a"], r"\['a'\] is of type list"),
    ("a\ud83d", r"'a\\ud83d' holds half of a surrogate pair"),
])
def test_what_is_no_text_is_named(bad: Any, problem: str) -> None:
    with pytest.raises(DataError, match=f"^data.jsonl, row 2, column 'c': {problem}"):
        texts(rows("a", bad), "c")


def test_lists_of_texts_may_be_tuples_and_hold_empty_texts() -> None:
    assert text_lists(rows(["a", ""], ("b",)), "c") == [["a", ""], ["b"]]


@pytest.mark.parametrize(("bad", "problem"), [
    (None, "None is no list of texts"),
    ("ab", "'ab' is no list of texts; write"),
    ([], r"\[\] is no list of texts; write .* with at least one"),
    (["a", None], r"\['a', None\] is no list of texts"),
    (["a", "\udc00"], "holds half of a surrogate pair"),
])
def test_what_is_no_list_of_texts_is_named(bad: Any, problem: str) -> None:
    with pytest.raises(DataError, match=f"^data.jsonl, row 2, column 'c': .*{problem}"):
        text_lists(rows(["a"], bad), "c")


def test_numbers_are_numbers_and_in_plain_text_what_reads_as_one() -> None:
    assert numbers(rows(1, -0.5), "c") == [1.0, -0.5]
    assert numbers(rows("1", " -5e-1 ", is_typed=False), "c") == [1.0, -0.5]


@pytest.mark.parametrize("is_typed", [True, False])
@pytest.mark.parametrize(("bad", "problem"), [
    (None, "there is no number; every row needs one"),
    ("", "there is no number; every row needs one"),
    ("high", "'high' is no finite number"),
    ("nan", "'nan' is no finite number"),
    (math.inf, "inf is no finite number"),
    ([1], r"\[1\] is no finite number"),
])
def test_what_is_no_number_is_named(bad: Any, problem: str, is_typed: bool) -> None:
    with pytest.raises(DataError, match=f"^data.jsonl, row 2, column 'c': {problem}"):
        numbers(rows(1, bad, is_typed=is_typed), "c")


@pytest.mark.parametrize("bad", [True, "1"])
def test_typed_files_say_numbers_as_numbers(bad: Any) -> None:
    with pytest.raises(DataError, match="is no finite number"):
        numbers(rows(bad), "c")


def test_a_row_is_named_by_its_place_in_the_file() -> None:
    assert place(rows("a", places=(6,)), 0, "c") == "data.jsonl, row 7, column 'c'"
    for read in (texts, text_lists, numbers):
        with pytest.raises(DataError, match=r"unknown column 'd'\. Known: c"):
            read(rows("a"), "d")
