"""Schedules are pure functions of progress, comparable and picklable."""

from __future__ import annotations

import pickle

from stillhouse.schedules import Constant, Linear, OfFraction, is_always_zero
from stillhouse.types import Progress


def square(fraction: float) -> float:
    return fraction**2


def values(schedule: object) -> list[float]:
    assert callable(schedule)
    return [schedule(Progress(step, 4)) for step in range(6)]


def test_schedules_follow_the_finished_share_of_training() -> None:
    assert values(Constant(0.3)) == [0.3] * 6
    assert values(Linear(1.0, 0.0)) == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert values(OfFraction(square, scale=2.0)) == [0.0, 0.125, 0.5, 1.125, 2.0, 2.0]


def test_schedules_are_values() -> None:
    for schedule in (Constant(1.0), Linear(0.0, 1.0), OfFraction(square)):
        assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_only_a_constant_zero_is_always_zero() -> None:
    assert is_always_zero(Constant(0)) and is_always_zero(Constant(0.0))
    assert not any(map(is_always_zero, (Constant(0.1), Linear(0.0, 0.0), OfFraction(square, scale=0.0))))
