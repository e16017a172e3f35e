"""Promises of the search for the best span: exact, within the longest length, settled where several are equal."""

from __future__ import annotations

import numpy as np
import pytest

from stillhouse.tasks.best_span import best_spans


def brute_force(start: np.ndarray, end: np.ndarray, max_length: int) -> float:
    """The highest sum of one row, pair by pair."""
    pairs = [(i, j) for i in range(len(start)) for j in range(i, min(i + max_length, len(start)))]
    return max(start[i] + end[j] for i, j in pairs)


@pytest.mark.parametrize("max_length", [1, 2, 5, 12, 100])
def test_the_span_is_the_best_of_all_pairs(max_length: int) -> None:
    draw = np.random.RandomState(max_length)
    start, end = draw.randn(40, 12), draw.randn(40, 12)
    for side in (start, end):
        side[draw.rand(40, 12) < 0.3] = -np.inf
    scores, firsts, lasts = best_spans(start, end, max_length)
    assert scores.tolist() == [brute_force(s, e, max_length) for s, e in zip(start, end, strict=True)]
    rows = np.isfinite(scores)
    assert rows.sum() > 20
    assert (start[np.arange(40), firsts] + end[np.arange(40), lasts])[rows].tolist() == scores[rows].tolist()
    assert (lasts >= firsts).all()
    assert (lasts - firsts < max_length).all()


def test_a_row_where_nothing_may_start_or_end_scores_minus_infinity() -> None:
    nowhere = np.full((3, 4), -np.inf)
    late = np.array([[-np.inf] * 3 + [1.0]])
    early = np.array([[1.0] + [-np.inf] * 3])
    assert np.isneginf(best_spans(nowhere, np.zeros((3, 4)), 3)[0]).all()
    assert np.isneginf(best_spans(late, early, 4)[0]).all()


def test_of_equally_good_spans_the_shortest_and_of_these_the_first_is_taken() -> None:
    start, end = np.array([[2.0, 0.0, 1.0, 1.0]]), np.array([[0.0, 0.0, 1.0, 1.0]])
    assert [int(value[0]) for value in best_spans(start, end, 4)] == [3, 0, 2]
    assert [int(value[0]) for value in best_spans(np.zeros((1, 4)), np.zeros((1, 4)), 4)] == [0, 0, 0]


def test_scores_that_are_no_numbers_never_win() -> None:
    start, end = np.array([[np.nan, 1.0, 0.0]]), np.array([[0.0, 0.0, np.nan]])
    assert [float(value[0]) for value in best_spans(start, end, 3)] == [1.0, 1, 1]


def test_the_scores_given_are_left_as_they_are() -> None:
    start, end = np.array([[np.nan, 1.0]]), np.array([[1.0, np.nan]])
    best_spans(start, end, 2)
    assert np.isnan(start[0, 0])
    assert np.isnan(end[0, 1])
