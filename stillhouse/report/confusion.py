"""Which class one side says where the other says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Confusion:
    """Counts of pairs: ``counts[i][j]`` is how often the reference said name i and the student name j."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def shares(self) -> list[list[float]]:
        """Each row divided by its sum, 0 to 1; a row of zeros stays."""
        return [[count / (sum(row) or 1) for count in row] for row in self.counts]

    def most_confused(self, limit: int) -> list[ConfusedPair]:
        """The most frequent pairs of different names, the larger share first among equals."""
        pairs = [
            ConfusedPair(self.names[i], self.names[j], count, count / sum(row))
            for i, row in enumerate(self.counts) for j, count in enumerate(row) if i != j and count]
        return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.reference, pair.student))[:limit]


@dataclass(frozen=True)
class ConfusedPair:
    """The reference said one name and the student another, so often, and in that share of the reference's rows."""

    reference: str
    student: str
    count: int
    share: float


def confusion(pairs: Iterable[tuple[str, str]], names: Sequence[str]) -> Confusion:
    """Count pairs (reference, student). Names that occur and are not listed follow the listed ones, sorted."""
    counts = Counter(pairs)
    seen = {name for pair in counts for name in pair}
    every = tuple(dict.fromkeys([*names, *sorted(seen - set(names))]))
    return Confusion(every, tuple(tuple(counts[one, other] for other in every) for one in every))
