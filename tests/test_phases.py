"""Promises of the phases: own time alone, nothing lost, nothing counted while nobody measures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from stillhouse import phases
from stillhouse.phases import REST, PhaseClock, phase, waiting

CPU = torch.device("cpu")


class Hands:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(phases, "time", SimpleNamespace(perf_counter=hands))
    return hands


def test_phases_get_their_own_time_alone_and_add_up_to_the_whole(hands: Hands) -> None:
    with PhaseClock(CPU).running() as clock:
        hands.passes(1)
        with phase("teacher"):
            hands.passes(2)
            with phase("cache"):
                hands.passes(4)
                with phase("teacher"):
                    hands.passes(8)
                hands.passes(16)
            hands.passes(32)
        hands.passes(64)
        first = clock.lap()
        with phase("data"):
            hands.passes(128)
        second = clock.lap()
    assert first == {REST: 65, "teacher": 42, "cache": 20}
    assert {name: seconds for name, seconds in second.items() if seconds} == {"data": 128}


def test_a_lap_inside_a_phase_cuts_it_in_two(hands: Hands) -> None:
    with PhaseClock(CPU).running() as clock, phase("checkpoints"):
        hands.passes(1)
        first = clock.lap()
        hands.passes(2)
        second = clock.lap()
    assert (first["checkpoints"], second["checkpoints"]) == (1, 2)


def test_an_error_ends_a_phase_and_the_measurement(hands: Hands) -> None:
    clock = PhaseClock(CPU)
    with clock.running():
        with pytest.raises(KeyError), phase("losses"):
            hands.passes(1)
            raise KeyError
        hands.passes(2)
        assert clock.lap() == {"losses": 1, REST: 2}
    with pytest.raises(KeyError), clock.running():
        raise KeyError
    with phase("losses"):
        hands.passes(4)
    assert "losses" not in clock.lap()


def test_the_clock_that_ran_before_goes_on_after_another(hands: Hands) -> None:
    with PhaseClock(CPU).running() as outer:
        with PhaseClock(CPU).running() as inner, phase("data"):
            hands.passes(1)
        with phase("losses"):
            hands.passes(2)
        assert inner.lap()["data"] == 1
        assert outer.lap()["losses"] == 2


def test_what_other_threads_do_is_counted_apart(hands: Hands) -> None:
    def in_a_thread(name: phases.PhaseName) -> None:
        def beside() -> None:
            with phase(name):
                hands.passes(1)
                with phase("cache"):
                    hands.passes(2)

        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()

    with PhaseClock(CPU).running() as clock, phase("student"):
        in_a_thread("data")
        in_a_thread("cache")
        assert clock.lap() == {"student": 6, REST: 0}
        assert clock.beside() == {"data": 1, "cache": 5}
        assert clock.beside() == {}


def test_waiting_counts_the_time_until_each_item_and_gives_them_all(hands: Hands) -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            hands.passes(1)
            yield number
        hands.passes(8)

    seen = []
    with PhaseClock(CPU).running() as clock:
        for number in waiting("data", slow()):
            hands.passes(16)
            seen.append(number)
        lap = clock.lap()
    assert seen == [0, 1, 2]
    assert lap == {"data": 11, REST: 48}


def test_an_unmeasured_phase_makes_nothing() -> None:
    assert phase("student") is phase("backward")
