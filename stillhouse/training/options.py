"""What a training run is asked to do, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillhouse.errors import PlanError
from stillhouse.training.events import Sink
from stillhouse.training.precision import Precision
from stillhouse.training.profiling import Profile
from stillhouse.training.saving import EverySteps, SavePolicy

Callback = Callable[..., Any]


@dataclass(frozen=True)
class Evaluation:
    """How the student is judged at checkpoints.

    Attributes:
        function: ``function(student) -> metrics``; called in eval mode without gradients, on rank 0.
        monitor: the metric that picks the best checkpoint; higher is better, or lower with ``lower_is_better``.
        patience: stop after so many evaluations without a new best; None never.
    """

    function: Callable[[nn.Module], Mapping[str, float]]
    monitor: str
    lower_is_better: bool = False
    patience: int | None = None


@dataclass(frozen=True)
class FitOptions:
    """Everything about a run that is not the experiment itself.

    Attributes:
        num_epochs: passes over the data, also a fraction; or
        num_steps: optimizer steps, over as many passes as it takes.
        accumulation: micro-batches for each optimizer step.
        max_grad_norm: clip the gradient of everything trained to this norm; None does not.
        output_dir: where checkpoints go; None keeps none.
        save: when a checkpoint is due; the last step is always saved.
        keep_last: remove all but so many newest checkpoints (and the best); None keeps all.
        resume: go on from the newest checkpoint in ``output_dir`` if there is one.
        log_every: optimizer steps between logged values.
        extra: keyword arguments for every forward of both models.
        callback: called as ``callback(model=student, step=step)`` after each checkpoint, on every rank; a mapping of
            numbers that it returns is logged.
        profile: measure where the time of some steps goes; the training is the same.
    """

    num_epochs: float | None = None
    num_steps: int | None = None
    accumulation: int = 1
    max_grad_norm: float | None = None
    precision: Precision = field(default_factory=Precision)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    output_dir: Path | None = None
    save: SavePolicy = field(default_factory=lambda: EverySteps(None))
    keep_last: int | None = None
    resume: bool = False
    log_every: int = 10
    extra: Mapping[str, Any] = field(default_factory=dict)
    sinks: Sequence[Sink] = ()
    evaluation: Evaluation | None = None
    callback: Callback | None = None
    profile: Profile | None = None

    def __post_init__(self) -> None:
        if (self.num_epochs is None) == (self.num_steps is None):
            raise PlanError("give either num_epochs or num_steps")
        for name in ("num_epochs", "num_steps", "accumulation", "log_every", "keep_last"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise PlanError(f"{name}={value!r} must be above 0")


@dataclass(frozen=True)
class FitResult:
    """How a run ended: steps done, why it stopped, the best evaluation and all of them by step."""

    steps: int
    reason: str
    seconds_s: float
    best_step: int | None
    evaluations: Mapping[int, Mapping[str, float]]
