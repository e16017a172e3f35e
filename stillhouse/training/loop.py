"""The training loop. There is no other."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from stillhouse import modes
from stillhouse.batches import batch_to_device
from stillhouse.errors import CheckpointError, DataError, PlanError
from stillhouse.phases import phase, waiting
from stillhouse.plan import Distillation
from stillhouse.schedules import Constant
from stillhouse.training import distributed
from stillhouse.training.bundle import Bundle
from stillhouse.training.events import CheckpointSaved, RunFinished, RunStarted
from stillhouse.training.gradients import clip
from stillhouse.training.keeper import Keeper
from stillhouse.training.options import FitOptions, FitResult
from stillhouse.training.profiling import meter
from stillhouse.training.randomness import RandomTrack
from stillhouse.training.recorder import Recorder
from stillhouse.training.sources import BatchSource, Window, crossing_windows, epoch_windows
from stillhouse.training.step import accumulate_gradients
from stillhouse.types import Progress


def fit(
    plan: Distillation, source: BatchSource, optimizer: Optimizer, options: FitOptions, scheduler: Any = None
) -> FitResult:
    """Train the plan's student.

    ``optimizer`` holds everything trained (student and loss parameters); ``scheduler``, if any, is stepped after every
    optimizer step. Raises what the parts raise: `PlanError`, `OutputError` at the first micro-batch,
    `NonFiniteLossError`, `CheckpointError`.
    """
    run = _Run(plan, source, optimizer, options, scheduler)
    started = time.perf_counter()
    reason = "done"
    try:
        with modes.training(run.bundle):
            run.begin()
            for window in waiting("data", run.windows()):
                if window.batches:
                    run.train_on(window)
                    due = options.save.after_step(run.step)
                else:
                    run.end_epoch(window.epoch)
                    due = options.save.after_epoch(window.epoch)
                if due and run.step != run.keeper.last_saved and run.save():
                    reason = "early stopping"
                    break
                if window.batches:
                    run.meter.after_step(window.batches)
                if run.finished(window):
                    break
            if run.step != run.keeper.last_saved:
                run.save()
            run.meter.finish()
            seconds = time.perf_counter() - started
            run.recorder.emit(RunFinished(run.step, reason=reason, seconds_s=seconds))
    finally:
        run.meter.close()
        run.recorder.close()
    return FitResult(run.step, reason, seconds, run.keeper.best_step, run.keeper.evaluations)


class _Run:
    """The moving parts of one call of `fit`, and where it is."""

    def __init__(
        self, plan: Distillation, source: BatchSource, optimizer: Optimizer, options: FitOptions, scheduler: Any
    ) -> None:
        self.plan, self.source, self.options = plan, source, options
        self.optimizer, self.scheduler = optimizer, scheduler
        self.bundle = Bundle(plan, options.precision).to(options.device)
        _require_trainable(plan, optimizer, scheduler)
        self.model = distributed.wrap(self.bundle)
        self.scaler = options.precision.scaler(options.device)
        self.recorder = Recorder(options.sinks, options.log_every)
        self.keeper = Keeper(plan.student, options, self.recorder)
        self.track = RandomTrack()
        self.meter = meter(options.profile, options.device, str(options.precision))
        self.total_steps = total_steps(source, options)
        if options.profile is not None and self.total_steps is not None:
            options.profile.require(self.total_steps, options.device)
        self.step = self.epoch = self.consumed = 0
        _warn_of_batch_losses(plan, options.accumulation)
        if self.total_steps is None and _has_schedules(plan):
            raise PlanError("a weight schedule needs to know how long training is, and this loader has no length; "
                            "give num_steps instead of num_epochs")

    def begin(self) -> None:
        """Start afresh, or go on from the newest checkpoint."""
        state = self.keeper.newest_state()
        self.recorder.emit(RunStarted(state["step"] if state else 0, total_steps=self.total_steps))
        if state is None:
            return
        _require_same(state["settings"], self._settings())
        self.step, self.epoch, self.consumed = state["step"], state["epoch"], state["consumed"]
        self.bundle.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.source.restore(state["source"])
        mine = state["ranks"][distributed.rank()]
        self.track = RandomTrack(mine["epoch_start"] if self.consumed else mine["now"], mine["now"])
        self.recorder.rewind(state["events"])
        self.recorder.emit(CheckpointSaved(self.step, name=f"gs{self.step}"))

    def windows(self) -> Iterator[Window]:
        """The windows still to be trained on; none when all steps are done."""
        if self.total_steps is not None and self.step >= self.total_steps:
            return iter(())
        make = epoch_windows if self.options.num_steps is None else crossing_windows
        return make(self.source, self.options.accumulation, self.epoch, self.consumed, self.track)

    def train_on(self, window: Window) -> None:
        """One optimizer step, on the micro-batches whose task has a term that is on; counted even if there is none."""
        progress = Progress(self.step, self.total_steps or 0, window.epoch)
        self.step, self.epoch, self.consumed = self.step + 1, window.epoch, window.consumed
        batches = [batch for batch in window.batches if self.plan.objective.for_task(batch.task).trains(progress)]
        if batches:
            with phase("data"):
                batches = [batch_to_device(batch, self.options.device) for batch in batches]
            with phase("optimizer"):
                self.optimizer.zero_grad(set_to_none=True)
            result = accumulate_gradients(
                self.plan, self.model, self.bundle, batches, progress, self.options.extra, self.scaler
            )
            with phase("logging"):
                self.recorder.check_finite(self.step, result)
            with phase("optimizer"):
                norm = self._clip()
                self.scaler.step(self.optimizer)
                self.scaler.update()
            self.bundle.after_step()
            with phase("logging"):
                self.recorder.record(self.step, window.epoch, result, norm, self.optimizer)
        if self.scheduler is not None:
            with phase("optimizer"), warnings.catch_warnings():
                # A step without weights or with overflow skips the optimizer, rightly.
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
                self.scheduler.step()

    def end_epoch(self, next_epoch: int) -> None:
        """The position moves to the start of the next epoch, in which every rank finds what any of them was told."""
        self.epoch, self.consumed = next_epoch, 0
        self.plan.teacher.flush()
        distributed.wait_for_all()

    def save(self) -> bool:
        """Keep a checkpoint; whether training should stop early."""
        with phase("checkpoints"):
            return self._save()

    def _save(self) -> bool:
        self.recorder.flush(self.step, self.epoch, self.optimizer)
        self.plan.teacher.flush()  # after a resume no answer may be computed anew, in another batch to other last bits
        return self.keeper.keep(self.step, {
            "step": self.step, "epoch": self.epoch, "consumed": self.consumed,
            "epoch_start": self.track.epoch_start,
            "objective": self.bundle.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else _kept_scheduler_state(self.scheduler),
            "scaler": self.scaler.state_dict(),
            "source": self.source.state(),
            "settings": self._settings(),
        })

    def finished(self, window: Window) -> bool:
        """Whether the last step or epoch is done."""
        if self.total_steps is None:
            return window.epoch >= (self.options.num_epochs or 0)
        epochs = self.options.num_epochs
        mark_to_come = epochs is not None and epochs == int(epochs) and bool(window.batches)
        return self.step >= self.total_steps and not mark_to_come

    def _clip(self) -> torch.Tensor | None:
        if self.options.max_grad_norm is None:
            return None
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return clip(trained, self.options.max_grad_norm)

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a resume to make sense."""
        terms = {f"{task}/{name}": type(term.loss).__name__ for task, objective in self.plan.objective.tasks()
                 for name, term in objective.terms.items()}
        return {
            "losses": terms,
            "student parameters": sum(p.numel() for p in self.plan.student.parameters()),
            "teacher": self.plan.teacher.fingerprint,
            "micro-batches a step": self.options.accumulation,
            "batches an epoch": self.source.num_batches,
            "steps": self.total_steps,
            "precision": str(self.options.precision),
        }


def total_steps(source: BatchSource, options: FitOptions) -> int | None:
    """The number of optimizer steps, or None if the data's length is unknown."""
    if options.num_steps is not None:
        return options.num_steps
    lengths: list[int | None] = distributed.gather_objects(source.num_batches)
    if None in lengths:
        if options.num_epochs != int(options.num_epochs or 0):
            raise PlanError(f"num_epochs={options.num_epochs}: part of an epoch needs a loader with a length")
        return None
    longest = max(length or 0 for length in lengths)
    if longest == 0:
        raise DataError("the data loader gave no batch: it is empty")
    return math.ceil(round((options.num_epochs or 0) * math.ceil(longest / options.accumulation), 6))


def _require_trainable(plan: Distillation, optimizer: Optimizer, scheduler: Any) -> None:
    """Raise `PlanError` for an optimizer that holds the wrong parameters, and for kinds that cannot be used."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in plan.student.parameters()):
        raise PlanError("the optimizer holds no parameter of the student; make it over student.parameters()")
    lost = [name for name, p in plan.objective.named_parameters() if p.requires_grad and id(p) not in held]
    if lost:
        raise PlanError(f"the optimizer lacks parameters of the losses ({', '.join(lost)}), which would never be "
                        "trained; make it over [*student.parameters(), *objective.parameters()]")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise PlanError("LBFGS evaluates the loss several times a step, which this loop does not; use AdamW or SGD")
    if isinstance(scheduler, ReduceLROnPlateau):
        raise PlanError("ReduceLROnPlateau waits for a metric, and schedulers are stepped after every optimizer step; "
                        "use a schedule of the step, such as LambdaLR")


def _has_schedules(plan: Distillation) -> bool:
    return any(not isinstance(term.weight, Constant) for _, objective in plan.objective.tasks()
               for term in objective.terms.values())


def _warn_of_batch_losses(plan: Distillation, accumulation: int) -> None:
    names = {name for _, objective in plan.objective.tasks() for name in objective.depends_on_batches()}
    if accumulation > 1 and names:
        warnings.warn(f"{', '.join(sorted(names))}: rows of a micro-batch are related to each other, so accumulating "
                      f"{accumulation} small ones is not the same as one large batch; where memory allows, raise the "
                      "batch size instead", stacklevel=4)


def _kept_scheduler_state(scheduler: Any) -> Any:
    """The scheduler's state without functions, which LambdaLR leaves in as None or as callables."""
    return {name: value for name, value in scheduler.state_dict().items() if not callable(value)}


def _require_same(kept: dict[str, Any], now: dict[str, Any]) -> None:
    different = [f"{name} ({kept.get(name)} then, {now[name]} now)" for name in now if kept.get(name) != now[name]]
    if different:
        raise CheckpointError("the checkpoint belongs to another experiment: " + "; ".join(different)
                              + ". Set the same values, or start in another output folder")
