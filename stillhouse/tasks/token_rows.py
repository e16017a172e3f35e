"""Lists of numbers, one a row, held in one block of memory: a tenth of what lists of Python numbers take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import final, overload

import numpy as np

from stillhouse.batches import Array

_TYPES = (np.int8, np.int16, np.int32, np.int64)


@final
class TokenRows(Sequence[list[int]]):
    """A sequence of lists of whole numbers that cannot be changed.

    The numbers lie one after another in the smallest type that holds them all; ``ends`` says where each row ends.
    """

    def __init__(self, rows: Iterable[Sequence[int]]) -> None:
        rows = list(rows)
        self.lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        self.ends = self.lengths.cumsum()
        flat = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(self.lengths.sum()))
        self.flat: Array = _smallest(flat)

    @classmethod
    def joined(cls, parts: Sequence[TokenRows]) -> TokenRows:
        """The rows of one after those of another."""
        whole = cls(())
        if parts:
            whole.lengths = np.concatenate([part.lengths for part in parts])
            whole.ends = whole.lengths.cumsum()
            whole.flat = np.concatenate([part.flat for part in parts])
        return whole

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> list[int]: ...
    @overload
    def __getitem__(self, row: slice) -> list[list[int]]: ...
    def __getitem__(self, row: int | slice) -> list[int] | list[list[int]]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        found: list[int] = self._row(range(len(self))[row]).tolist()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenRows) and (
            np.array_equal(self.ends, other.ends) and np.array_equal(self.flat, other.flat))

    def taken(self, rows: Iterable[int]) -> Array:
        """The numbers of the given rows, one after another, as int64."""
        parts = [self._row(row) for row in rows]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def _row(self, row: int) -> Array:
        end = self.ends[row]
        return self.flat[end - self.lengths[row] : end]


def _smallest(flat: Array) -> Array:
    low, high = (int(flat.min()), int(flat.max())) if len(flat) else (0, 0)
    return flat.astype(next(t for t in _TYPES if np.iinfo(t).min <= low and high <= np.iinfo(t).max))
