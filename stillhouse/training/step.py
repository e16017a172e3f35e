"""One optimizer step: the only ``backward()`` of the package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor, nn

from stillhouse.batches import num_rows
from stillhouse.modes import device_of
from stillhouse.phases import phase
from stillhouse.plan import Distillation
from stillhouse.training import distributed
from stillhouse.training.bundle import Bundle, Measured, WindowCounts, add_counts, combine
from stillhouse.types import Batch, Over, Progress


@dataclass
class StepResult:
    """The step's loss and each term's mean over the whole window, as tensors: reading them is the caller's choice."""

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, share: float, prefix: str, loss: Tensor | None, parts: Mapping[str, Tensor]) -> None:
        """Add one micro-batch."""
        if loss is not None:
            self.loss = self.loss + share * loss.detach()
        for name, value in parts.items():
            self.parts[prefix + name] = self.parts.get(prefix + name, 0) + value


@final
class WindowLoss:
    """The loss of one optimizer step, micro-batch by micro-batch: for loops of your own.

    ``of`` gives each micro-batch's share, to call ``backward()`` on. Each sum is divided once, by the count over all
    micro-batches and ranks, so that the shares' gradients add up to what one large batch on one rank would give.
    Declared masks are counted here, before any forward, on all ranks together. Otherwise the first micro-batch's
    forward shows what is counted, and the rest of the window is counted by forwards without a graph, unless every unit
    is a row.

    Args:
        plan: the experiment.
        bundle: what is trained of it.
        window: all micro-batches of the step, on the bundle's device where their masks are not declared.
        progress: steps done, and how many there will be: weights may depend on it.
        extra: further keyword arguments of both models' forwards.
        model: called in place of the bundle, with the same arguments: the module that averages gradients over ranks.
    """

    def __init__(
        self,
        plan: Distillation,
        bundle: Bundle,
        window: Sequence[Batch],
        progress: Progress,
        extra: Mapping[str, Any] | None = None,
        model: Callable[..., Any] | None = None,
    ) -> None:
        self.result = StepResult(torch.zeros(()))
        """The step's loss and the terms' means, as far as shares were asked for: this rank's part of them."""
        self._plan, self._bundle, self._window, self._progress = plan, bundle, window, progress
        self._extra, self._model = extra or {}, bundle if model is None else model
        self._counts = WindowCounts.declared(plan, window) if plan.declares_masks else None
        self._prefixed = len(plan.objective.tasks()) > 1

    def of(self, batch: Batch) -> Tensor:
        """The share of a micro-batch, the window's first one first. Without a graph if no term gives a gradient.

        It is multiplied by the number of ranks, for averaging gradients over ranks divides again. Raises `OutputError`.
        """
        objective = self._plan.objective.for_task(batch.task)
        teacher = batch.answers
        if teacher is None:
            with phase("teacher"):
                teacher = self._plan.teacher.signals(batch, objective.needs(self._progress).teacher, self._extra)
        measured: Measured = self._model(batch, teacher, self._progress, self._extra)
        if self._counts is None:
            self._counts = _opaque_counts(self._plan, self._bundle, self._window, measured, self._progress, self._extra)
        share = self._counts.share(batch.task)
        with phase("losses"):
            loss, parts = combine(objective, batch.task, measured, self._counts, self._progress)
            self.result.add(share, f"{batch.task}/" if self._prefixed else "", loss, parts)
        return torch.zeros(()) if loss is None else loss * share * distributed.world_size()


def accumulate_gradients(
    plan: Distillation,
    model: nn.Module,
    bundle: Bundle,
    window: Sequence[Batch],
    progress: Progress,
    extra: Mapping[str, Any],
    scaler: torch.amp.GradScaler,
) -> StepResult:
    """Leave in the parameters the gradient of the window's loss, exactly as one large batch on one rank would."""
    losses = WindowLoss(plan, bundle, window, progress, extra, model)
    for i, batch in enumerate(window):
        with distributed.synchronised(model, is_last=i == len(window) - 1):
            loss = losses.of(batch)
            if loss.requires_grad:
                with phase("backward"):
                    scaler.scale(loss).backward()
    return losses.result


def measure(
    plan: Distillation, bundle: Bundle, batch: Batch, progress: Progress, extra: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch by itself, with its graph, and each term's unweighted mean; nothing is updated."""
    objective = plan.objective.for_task(batch.task)
    teacher = plan.teacher.signals(batch, objective.needs(progress).teacher, extra)
    measured: Measured = bundle(batch, teacher, progress, extra)
    loss, parts = objective.combine(measured.sums, measured.counts, progress)
    assert loss is not None, "a bundle never gives nothing to train on"
    return loss, parts


def _opaque_counts(
    plan: Distillation,
    bundle: Bundle,
    window: Sequence[Batch],
    first: Measured,
    progress: Progress,
    extra: Mapping[str, Any],
) -> WindowCounts:
    """Counts of a window whose first micro-batch was measured: the rest by their rows, or by a survey."""
    local: dict[tuple[str, Over], Tensor] = {}
    add_counts(local, window[0].task, first.counts)
    rest = window[1:]
    rows = [num_rows(batch.student) for batch in rest]
    if first.by_row and None not in rows and all(batch.task == window[0].task for batch in rest):
        for batch, number in zip(rest, rows, strict=True):
            count = torch.tensor(0.0 if batch.ghost else float(number or 0))
            add_counts(local, batch.task, dict.fromkeys(first.counts, count))
        return WindowCounts(window, local)
    if rest:
        _warn_survey()
    device = device_of(bundle.student)
    # The real forwards then draw the very same dropout.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for batch in rest:
            add_counts(local, batch.task, bundle.survey(batch, progress, extra))
    return WindowCounts(window, local)


@lru_cache(maxsize=1)
def _warn_survey() -> None:
    warnings.warn(
        "gradient accumulation with masks that only the model's outputs tell costs an extra forward of the student for "
        "most micro-batches, to count what the step's sums are divided by; declare them and it is gone: "
        "FunctionAdaptor(adaptor, masks=lambda batch: {'inputs_mask': ..., 'logits_mask': ...})",
        stacklevel=2,
    )
