"""Where the time of training goes: named phases, which cost next to nothing while nobody measures.

    with phase("teacher"):
        answer = teacher.signals(batch, keys)

Phases nest. Each is given its own time alone, without that of the phases inside it, so that all of them together, with
what is outside of every one, make up the whole. One `PhaseClock` at a time measures. The steps are those of the thread
that made it; what other threads do beside them is no part of a step and is counted apart.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import torch

PhaseName = Literal["data", "cache", "teacher", "student", "losses", "backward", "optimizer", "logging", "checkpoints"]
Item = TypeVar("Item")

REST = "rest"
"""What is outside of every phase."""

_UNMEASURED: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
_clock: PhaseClock | None = None


def phase(name: PhaseName) -> contextlib.AbstractContextManager[None]:
    """A context whose time counts as ``name``, if someone measures. It may be entered inside itself and others."""
    return _UNMEASURED if _clock is None else _clock.inside(name)


def waiting(name: PhaseName, items: Iterable[Item]) -> Iterator[Item]:
    """The same items; the time until each comes counts as ``name``."""
    iterator = iter(items)
    while True:
        with phase(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


class PhaseClock:
    """Adds up the seconds of each phase from one `lap` to the next, inside `running`.

    Args:
        device: where the work is done.
        waits: what is asked of a CUDA device is done later, so each phase waits for it; without, only laps do, and
            phases are the time that it took to ask.
        traced: also name the phases in the trace of a ``torch.profiler`` that is running.
    """

    def __init__(self, device: torch.device, waits: bool = True, traced: bool = False) -> None:
        self.device, self.waits, self.traced = device, waits, traced
        self._own = _Track(threading.get_ident())
        self._others: list[_Track] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[PhaseClock]:
        """Measure inside, in place of any other clock."""
        global _clock
        before, _clock = _clock, self
        self._wait()
        self._own.since = time.perf_counter()
        try:
            yield self
        finally:
            _clock = before

    def lap(self) -> dict[str, float]:
        """The seconds of each phase since the last lap, or since the start; their sum is all the time between."""
        self._wait()
        self._own.turn()
        return self._own.taken()

    def beside(self) -> dict[str, float]:
        """The seconds of each phase of other threads since the last call."""
        sums: dict[str, float] = {}
        for track in self._others:
            for name, seconds in track.taken().items():
                sums[name] = sums.get(name, 0.0) + seconds
        sums.pop(REST, None)
        return sums

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """The context behind `phase`."""
        track = self._track()
        waits = self.waits and track is self._own
        with torch.profiler.record_function(name) if self.traced else _UNMEASURED:
            if waits:
                self._wait()
            track.turn()
            track.open.append(name)
            try:
                yield
            finally:
                if waits:
                    self._wait()
                track.turn()
                track.open.pop()

    def _track(self) -> _Track:
        thread = threading.get_ident()
        for track in (self._own, *self._others):
            if track.thread == thread:
                return track
        self._others.append(_Track(thread))
        return self._others[-1]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Track:
    """Where one thread is, and the seconds of its phases."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.open: list[str] = [REST]
        self.since = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def turn(self) -> None:
        """Give the time since the last turn to the phase that is open."""
        now = time.perf_counter()
        self._seconds[self.open[-1]] = self._seconds.get(self.open[-1], 0.0) + now - self.since
        self.since = now

    def taken(self) -> dict[str, float]:
        """The seconds so far, which start again from 0."""
        seconds, self._seconds = self._seconds, {}
        return seconds
