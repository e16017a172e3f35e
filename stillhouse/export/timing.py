"""How fast several models answer the same rows, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from stillhouse.recipe.measuring import speed
from stillhouse.tasks import EncodedSplit

BATCH_SIZES = (1, 32)
_ROUNDS = {1: 40, 32: 8}
_FEWEST_ROUNDS = 3
_LONGEST_S = 45.0  # of all contenders together, for each batch size

Answer = Callable[[Mapping[str, Any]], object]


@final
@dataclass(frozen=True, eq=False)
class Contender:
    """One that answers.

    Attributes:
        model: who it is, ``"teacher"`` or ``"student"``.
        runtime: where it runs, such as ``"torch fp32"``.
        answer: answers a batch, and is done when it returns.
        rows: as it reads them; all contenders have as many, in the same order.
        size_bytes: of its weights, or of its file.
    """

    model: str
    runtime: str
    answer: Answer
    rows: EncodedSplit
    size_bytes: int


@final
@dataclass(frozen=True)
class Timing:
    """What was measured of a contender; ``by_batch`` has ``ms`` of a batch and ``rows_per_s`` by the batch's size."""

    model: str
    runtime: str
    size_bytes: int
    by_batch: Mapping[str, Mapping[str, float]]


def timed(contenders: Sequence[Contender], clock: Callable[[], float] = time.perf_counter) -> list[Timing]:
    """Medians for single rows and for batches of 32, or of all rows where they are fewer; tokenising is not counted.

    Every contender answers a batch before the next batch is taken, so that whatever slows the machine down for a while
    slows all of them. The first batch is answered twice, and counts once.
    """
    by_batch: list[dict[str, dict[str, float]]] = [{} for _ in contenders]
    num_rows = min(len(one.rows) for one in contenders)
    for size in dict.fromkeys(min(size, num_rows) for size in BATCH_SIZES):
        rounds = _ROUNDS[1 if size == 1 else BATCH_SIZES[-1]]
        for found, seconds in zip(by_batch, _seconds(contenders, size, num_rows, rounds, clock), strict=True):
            found[str(size)] = speed(size, statistics.median(seconds))
    return [Timing(one.model, one.runtime, one.size_bytes, found)
            for one, found in zip(contenders, by_batch, strict=True)]


def _seconds(contenders: Sequence[Contender], size: int, num_rows: int, rounds: int,
             clock: Callable[[], float]) -> list[list[float]]:
    seconds: list[list[float]] = [[] for _ in contenders]
    begun = clock()
    for number in range(-1, rounds):
        start = max(number, 0) * size % (num_rows - size + 1)
        for one, measured in zip(contenders, seconds, strict=True):
            batch = one.rows.batch(range(start, start + size))
            started = clock()
            one.answer(batch)
            if number >= 0:
                measured.append(clock() - started)
        if number + 1 >= _FEWEST_ROUNDS and clock() - begun > _LONGEST_S:
            break
    return seconds
