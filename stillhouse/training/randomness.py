"""The state of every random generator that training may draw from: kept, brought back, seeded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """The state of all global generators, as tensors, numbers and lists."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)
    name, keys, *rest = numpy_state
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: dict[str, Any]) -> None:
    """Bring a captured state back."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])  # there may have been more


class RandomTrack:
    """Keeps the random state of an epoch's start, and replays it after a resume.

    A resumed epoch's loader is built and its first batches are skipped from the state at that epoch's start; then the
    state at the checkpoint comes back.
    """

    def __init__(self, epoch_start: dict[str, Any] | None = None, now: dict[str, Any] | None = None) -> None:
        self._replay, self._now = epoch_start, now
        self.epoch_start: dict[str, Any] = {}

    def before_epoch(self) -> None:
        """Called before an epoch's iterator is made."""
        if self._replay is not None:
            restore(self._replay)
        self.epoch_start = capture()
        self._replay = None

    def after_skip(self) -> None:
        """Called when its first batches have been skipped."""
        if self._now is not None:
            restore(self._now)
        self._now = None


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn inside, the global generators are as before afterwards."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All global generators seeded inside, and as before afterwards."""
    with untouched():
        seed_everything(seed)
        yield
