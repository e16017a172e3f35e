"""A run with everything that has a state: shuffling, dropout, AdamW, a scheduler, a projection, evaluation, events.

As a program, ``python -m tests.training.resumable FOLDER STEP`` kills itself without warning after that step.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from stillhouse.plan import Distillation
from stillhouse.training import Bundle, Evaluation, EverySteps, FitOptions, JsonLinesSink, LoaderSource, Sink, fit
from stillhouse.training.events import CheckpointSaved, Event, StepLogged

from .toy import collate, make_plan, rows


def weights_of(plan: Distillation) -> torch.Tensor:
    """Every trained weight, projections included."""
    return torch.cat([p.detach().flatten() for p in Bundle(plan).parameters()])


def shuffled_loader() -> Any:
    """Four shuffled batches an epoch, drawn from the global generator."""
    return DataLoader(rows(), batch_size=2, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


class StopAt(Sink):
    """Interrupts, or kills the process, when an event of a kind with that step is told: a checkpoint, or a step."""

    def __init__(self, step: int | None, kill: bool = False, kind: type[Event] | None = None) -> None:
        self.step, self.kill = step, kill
        self.kind = kind or (StepLogged if kill else CheckpointSaved)

    def emit(self, event: Event) -> None:
        if isinstance(event, self.kind) and event.step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt


def run(folder: Path, *, interval: int, stop_at: int | None = None, resume: bool = False, kill: bool = False) -> Any:
    """Three epochs of four steps; the trained weights."""
    torch.manual_seed(7)
    plan = make_plan(dropout=0.4)
    torch.manual_seed(8)
    optimizer = torch.optim.AdamW(Bundle(plan).parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    options = FitOptions(
        num_epochs=3, max_grad_norm=1.0, output_dir=folder, save=EverySteps(interval), resume=resume, log_every=1,
        sinks=[JsonLinesSink(folder / "events.jsonl"), StopAt(stop_at, kill)],
        evaluation=Evaluation(lambda student: {"norm": float(student.out.detach().norm())}, "norm"),
    )
    fit(plan, LoaderSource(shuffled_loader()), optimizer, options, scheduler)
    return weights_of(plan)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), interval=2, stop_at=int(sys.argv[2]), kill=True)
