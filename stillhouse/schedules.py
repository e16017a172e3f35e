"""Schedules: pure functions of the training progress, small enough to pickle and compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stillhouse.types import Progress

Schedule = Callable[[Progress], float]


@dataclass(frozen=True)
class Constant:
    """Always the same value."""

    value: float

    def __call__(self, progress: Progress) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """A straight line from ``start`` before the first step to ``end`` after the last."""

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * progress.fraction


@dataclass(frozen=True)
class OfFraction:
    """A plain function of the finished share of training (0 to 1), as the paper's weight schedules are.

    ``scale`` multiplies what the function gives.
    """

    function: Callable[[float], float]
    scale: float = 1.0

    def __call__(self, progress: Progress) -> float:
        return self.scale * float(self.function(progress.fraction))


def is_always_zero(schedule: Schedule) -> bool:
    """Whether a term with this weight can be left out from the start."""
    return isinstance(schedule, Constant) and schedule.value == 0
