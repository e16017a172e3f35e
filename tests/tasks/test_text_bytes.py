"""Promises of texts as bytes: nothing is lost, padding does not matter, and a cache knows a row by its text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.batches import num_rows, row_keys
from stillhouse.errors import DataError
from stillhouse.tasks.batching import BucketLoader, BucketSampler, EncodedRows
from stillhouse.tasks.text_bytes import text_rows
from stillhouse.teachers.called import texts_of

TEXTS = ["good", "", "naïve 😀", "好看的电影", "a\x00b\n ", " good"]
PAIRS = ["", "b", "good", "x" * 40, "", "ü"]


def test_texts_come_back_as_they_were() -> None:
    order = [3, 1, 0, 5, 4, 2]
    assert texts_of(text_rows(TEXTS).batch(order)) == [TEXTS[row] for row in order]
    found = texts_of(text_rows(TEXTS, PAIRS).batch(order))
    assert found == [(TEXTS[row], PAIRS[row]) for row in order]


def test_a_pair_of_empty_texts_is_still_a_pair() -> None:
    assert texts_of(text_rows(["", "a"], ["", ""]).batch([0])) == [("", "")]


def test_lengths_are_the_positions_that_count() -> None:
    for rows in (text_rows(TEXTS), text_rows(TEXTS, PAIRS)):
        batch = rows.batch(range(len(rows)))
        assert batch["attention_mask"].sum(dim=1).tolist() == rows.lengths.tolist()
        assert batch["input_ids"].shape[1] == rows.lengths.max() and num_rows(batch) == len(TEXTS)
    assert text_rows(["é", ""]).lengths.tolist() == [3, 1]


def test_a_row_has_one_name_in_any_batch() -> None:
    rows = text_rows(TEXTS, PAIRS)
    together = row_keys(rows.batch(range(len(rows))))
    assert together == [row_keys(rows.batch([row]))[0] for row in range(len(rows))]
    assert len(set(together)) == len(TEXTS)


def test_where_a_text_ends_is_part_of_its_name() -> None:
    batches = [text_rows(["ab"], ["c"]), text_rows(["a"], ["bc"]), text_rows(["abc"]), text_rows(["abc"], [""])]
    assert len({row_keys(rows.batch([0]))[0] for rows in batches}) == 4


def test_they_can_be_cut_into_batches() -> None:
    rows: EncodedRows = text_rows(TEXTS)
    loader = BucketLoader(rows, BucketSampler(rows.lengths, batch_size=4, seed=0, shuffle=True))
    found = [text for batch in loader for text in texts_of(batch)]
    assert sorted(map(str, found)) == sorted(TEXTS) and len(loader) == 2
    assert rows.lengths.dtype == np.int64 and rows.batch([0])["input_ids"].dtype == torch.int64


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"text 2: .*half of a surrogate pair"):
        text_rows(["a", "\ud800"])
    with pytest.raises(DataError, match="2 first texts and 1 second ones"):
        text_rows(["a", "b"], ["c"])
