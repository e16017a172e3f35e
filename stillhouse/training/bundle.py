"""The trained module: student and objective behind one forward, and the counts that normalise its sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stillhouse.batches import to_device
from stillhouse.errors import OutputError
from stillhouse.modes import device_of
from stillhouse.objective import Counts, Objective, Part
from stillhouse.phases import phase
from stillhouse.plan import Distillation
from stillhouse.training.distributed import sum_over_ranks
from stillhouse.training.precision import Precision
from stillhouse.types import LABELS, Batch, Features, Masks, Over, Progress


class Measured(NamedTuple):
    """What one forward gives: the sum of each part, and this micro-batch's own number of units.

    ``by_row`` says that every unit is a whole row, none of them masked, so that counting rows is counting units.
    """

    sums: dict[Part, Tensor]
    counts: dict[Over, Tensor]
    by_row: bool


class Bundle(nn.Module):
    """Everything that is trained: the student, and projections and other parameters of the losses.

    Gradient averaging wraps this module, clipping and checkpoints cover it. An export takes ``bundle.student``.
    """

    def __init__(self, plan: Distillation, precision: Precision | None = None) -> None:
        super().__init__()
        self.student = plan.student
        self.objective = plan.objective
        self.precision = precision or Precision()
        self._adaptor_for = plan.adaptor_for

    def forward(self, batch: Batch, teacher: Features, progress: Progress, extra: Mapping[str, Any]) -> Measured:
        """Student forward, then losses. A ghost's masks are empty, so that its sums are 0 with a graph."""
        objective = self.objective.for_task(batch.task)
        device = device_of(self.student)
        keys = objective.needs(progress).student
        with self.precision.autocast(device):
            with phase("student"):
                student, masks = self._adaptor_for(batch.task).run(self.student, batch.student, keys, extra)
            with phase("losses"):
                masks = masks_of(batch, masks)
                sums = objective(student, to_device(teacher, device), masks, progress)
        if not sums:
            raise OutputError(f"there is nothing to train on: no loss found its tensors in what the adaptors gave "
                              f"(student: {', '.join(map(str, student)) or 'nothing'}; "
                              f"teacher: {', '.join(map(str, teacher)) or 'nothing'})")
        by_row = LABELS not in student and all(mask.shape[1] == 1 for mask in masks.values())
        return Measured(sums, objective.counts(masks), by_row)

    def after_step(self) -> None:
        """To be called after each optimizer step, on every rank: some losses learn from what they saw."""
        for _, objective in self.objective.tasks():
            objective.after_step(sum_over_ranks)

    @torch.no_grad()
    def survey(self, batch: Batch, progress: Progress, extra: Mapping[str, Any]) -> Counts:
        """The counts of a micro-batch whose masks only its outputs tell: a forward without a graph."""
        objective = self.objective.for_task(batch.task)
        keys = objective.needs(progress).student
        with phase("student"), self.precision.autocast(device_of(self.student)):
            masks = self._adaptor_for(batch.task).run(self.student, batch.student, keys, extra).masks
        return objective.counts(masks_of(batch, masks))


def masks_of(batch: Batch, masks: Masks) -> Masks:
    """The masks that count: empty ones for a ghost."""
    return {name: torch.zeros_like(mask) for name, mask in masks.items()} if batch.ghost else masks


class WindowCounts:
    """The denominators of one optimizer step: units by task and kind, over all its micro-batches and all ranks.

    A micro-batch of task t is weighted by t's share of the window's micro-batches, so that a task of long rows does not
    swamp one of short rows.
    """

    def __init__(self, window: Sequence[Batch], local: Mapping[tuple[str, Over], Tensor]) -> None:
        self._share = _shares(window)
        keys = sorted(local, key=str)
        # They stay where they were counted: reading them would make every step wait for the device.
        totals = sum_over_ranks(torch.stack([local[key] for key in keys]).double()) if keys else ()
        self._totals = dict(zip(keys, totals, strict=True))

    @classmethod
    def declared(cls, plan: Distillation, window: Sequence[Batch]) -> WindowCounts:
        """From the masks that the adaptors declare, before any forward."""
        local: dict[tuple[str, Over], Tensor] = {}
        for batch in window:
            masks = masks_of(batch, plan.adaptor_for(batch.task).masks(batch.student))
            add_counts(local, batch.task, plan.objective.for_task(batch.task).counts(masks))
        return cls(window, local)

    def share(self, task: str) -> float:
        """The weight of a task in this step; 1 when there is one task."""
        return self._share[task]

    def of(self, task: str, overs: Iterable[Over]) -> Counts:
        """The denominators of a task. Raises `OutputError` if a declared mask is missing."""
        counts = {}
        for over in overs:
            every_head = Over(over.unit, "logits")
            if over.mask.startswith("logits.") and (task, over) not in self._totals and (
                    (task, every_head) in self._totals):  # one declared mask serves all heads
                counts[over] = self._totals[task, every_head]
                continue
            if (task, over) not in self._totals:
                raise OutputError(f"the declared masks lack {over.mask!r}, which a loss over {over} needs; "
                                  "add it to masks=, as (rows, positions) or (rows, 1)")
            counts[over] = self._totals[task, over]
        return counts


def _shares(window: Sequence[Batch]) -> dict[str, float]:
    """Each task's share of the window's micro-batches, on all ranks together."""
    tasks = sorted({batch.task for batch in window})
    if len(tasks) == 1:  # on every rank, since all draw the same tasks
        return {tasks[0]: 1.0}
    micro_batches = [float(sum(b.task == task and not b.ghost for b in window)) for task in tasks]
    counted = sum_over_ranks(torch.tensor(micro_batches, dtype=torch.float64))
    return dict(zip(tasks, (counted / counted.sum().clamp_min(1)).tolist(), strict=True))


def add_counts(total: dict[tuple[str, Over], Tensor], task: str, counts: Counts) -> None:
    """Add one micro-batch's counts to a running total."""
    for over, count in counts.items():
        total[task, over] = total[task, over] + count if (task, over) in total else count


def combine(objective: Objective, task: str, measured: Measured, counts: WindowCounts,
            progress: Progress) -> tuple[Tensor | None, dict[str, Tensor]]:
    """This micro-batch's share of the step's loss (None if no term is on), and of each term's mean."""
    overs = {objective.over(part) for part in measured.sums}
    return objective.combine(measured.sums, counts.of(task, overs), progress)
