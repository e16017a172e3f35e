"""Times optimizer steps of a training in this process, whoever runs it, in stretches that end when the device does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.turns import StoppedError, until_stopped


class Stopwatch:
    """Counts the optimizer steps inside `running`: a warm-up, then stretches that are timed.

    Args:
        device: what has to be done with its work at the ends of stretches.
        warm_up: steps before.
        steps: in a stretch.
        stretches: how many; fewer where ``limit_s`` seconds are over before, but at least one.
        goes_on: let training go on when all are timed, instead of ending it; an early end ends it anyway.
    """

    def __init__(self, device: torch.device, *, warm_up: int, steps: int, stretches: int, limit_s: float,
                 goes_on: bool) -> None:
        self._device, self._left, self._steps = device, warm_up, steps
        self._stretches, self._limit_s, self._goes_on = stretches, limit_s, goes_on
        self._started: float | None = None
        self.seconds: list[float] = []
        """Of each stretch."""
        self.peak_memory_bytes: int | None = None
        """What tensors took at most on a CUDA device, in all steps until the last stretch ended."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count inside; the training inside is ended quietly when all is timed."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        hook = register_optimizer_step_post_hook(self._after_step)
        try:
            with until_stopped():
                yield
        finally:
            hook.remove()

    @property
    def is_done(self) -> bool:
        """Whether all stretches are timed."""
        return len(self.seconds) == self._stretches

    def _after_step(self, *_: Any) -> None:
        self._left -= 1
        if self._left or self.is_done:
            return
        self._finish_device()
        now = time.perf_counter()
        if self._started is not None:
            self.seconds.append(now - self._started)
        if self.is_done and self._goes_on:
            return
        if self.is_done or sum(self.seconds) > self._limit_s:
            raise StoppedError
        self._left, self._started = self._steps, time.perf_counter()

    def _finish_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.peak_memory_bytes = torch.cuda.max_memory_allocated(self._device)
