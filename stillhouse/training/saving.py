"""When checkpoints are saved, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class SavePolicy(Protocol):
    """Says whether a checkpoint is due."""

    def after_step(self, step: int) -> bool:
        """After an optimizer step (counted from 1) that does not end an epoch."""

    def after_epoch(self, epoch: int) -> bool:
        """At the end of an epoch (counted from 1)."""


@dataclass(frozen=True)
class EverySteps:
    """Every ``interval`` steps; None: only at the end, which the loop saves in any case."""

    interval: int | None

    def after_step(self, step: int) -> bool:
        """Whether the step is a multiple of the interval."""
        return self.interval is not None and step % self.interval == 0

    def after_epoch(self, epoch: int) -> bool:
        """Never: steps count here."""
        return False


@dataclass(frozen=True)
class PerEpoch:
    """``frequency`` times in each epoch that ``epoch_frequency`` divides, evenly spread and ending with the epoch.

    The last epoch counts too, whatever its number. Without ``steps_per_epoch`` (unknown length): only at epochs' ends.
    """

    frequency: int
    epoch_frequency: int
    steps_per_epoch: int | None
    num_epochs: float

    def after_step(self, step: int) -> bool:
        """Whether the step is one of the inner ones of a saving epoch."""
        if self.steps_per_epoch is None or self.frequency == 1:
            return False
        epoch, within = divmod(step, self.steps_per_epoch)
        due = {int(self.steps_per_epoch * i / self.frequency) for i in range(1, self.frequency)}
        return within in due and self._saves(epoch + 1)

    def after_epoch(self, epoch: int) -> bool:
        """Whether this epoch saves."""
        return self._saves(epoch)

    def _saves(self, epoch: int) -> bool:
        return epoch % self.epoch_frequency == 0 or epoch >= self.num_epochs
