"""The best answer span of a window: exact, over every pair of a first and a last token."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


def best_spans(start_BL: Floats, end_BL: Floats, max_length: int) -> tuple[Floats, Ints, Ints]:
    """The span of the highest start + end score in each row: its score, its first and its last position, each (B,).

    Spans have 1 to ``max_length`` positions. Minus infinity marks where none may start or end; a row without any span
    scores minus infinity. Of equally good spans the shortest is taken, and of these the first. A sum that is not a
    number never wins.
    """
    rows, length = start_BL.shape
    scores = np.full(rows, -np.inf)
    starts, more = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    for distance in range(min(max_length, length)):
        sums = start_BL[:, : length - distance] + end_BL[:, distance:]
        sums[np.isnan(sums)] = -np.inf
        first = sums.argmax(axis=1)
        found = sums[np.arange(rows), first]
        better = found > scores
        scores[better], starts[better], more[better] = found[better], first[better], distance
    return scores, starts, starts + more
