"""The stopwatch times stretches of whole steps, and ends the training or lets it go on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import stopwatch
from benchmarks.stopwatch import Stopwatch


class Training:
    """Step n takes n seconds of a clock that stands still otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def run(self, watch: Stopwatch, steps: int) -> int:
        """How many steps were made."""
        done = 0
        with watch.running():
            for step in range(1, steps + 1):
                self.now += step
                done = step
                self.optimizer.step()
        return done


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(monkeypatch)


def watch(*, stretches: int = 2, limit_s: float = 100.0, goes_on: bool = False) -> Stopwatch:
    return Stopwatch(torch.device("cpu"), warm_up=3, steps=2, stretches=stretches, limit_s=limit_s, goes_on=goes_on)


def test_the_warm_up_is_not_timed_and_training_ends_with_the_last_stretch(training: Training) -> None:
    mine = watch()
    assert training.run(mine, 50) == 7
    assert mine.is_done and mine.seconds == [4 + 5, 6 + 7]


def test_training_goes_on_where_it_is_wanted(training: Training) -> None:
    mine = watch(goes_on=True)
    assert training.run(mine, 12) == 12
    assert mine.is_done and mine.seconds == [4 + 5, 6 + 7]


@pytest.mark.parametrize("goes_on", [False, True])
def test_the_limit_ends_it_after_at_least_one_stretch(training: Training, goes_on: bool) -> None:
    mine = watch(limit_s=8.0, goes_on=goes_on)
    assert training.run(mine, 50) == 5
    assert mine.seconds == [4 + 5] and not mine.is_done


def test_what_comes_after_is_not_watched(training: Training) -> None:
    mine = watch(stretches=1)
    training.run(mine, 50)
    training.optimizer.step()
    assert mine.seconds == [4 + 5]
