"""Checkpoints with what belongs to them: evaluation, the best one, early stopping, callback, resume."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stillhouse import modes
from stillhouse.errors import CheckpointError, PlanError
from stillhouse.training import callback_metrics, checkpoint, distributed, randomness
from stillhouse.training.events import CheckpointSaved, Evaluated
from stillhouse.training.options import Evaluation, FitOptions
from stillhouse.training.recorder import Recorder


class Keeper:
    """Saves, judges and brings back. Its counters are part of the training state."""

    def __init__(self, student: nn.Module, options: FitOptions, recorder: Recorder) -> None:
        self.student, self.options, self.recorder = student, options, recorder
        self.evaluations: dict[int, dict[str, float]] = {}
        self.best_step: int | None = None
        self.last_saved: int | None = None
        self._passed_over: set[str] = set()

    def keep(self, step: int, state: Mapping[str, Any]) -> bool:
        """Evaluate, save, call back, and only then tell of the checkpoint. Returns whether to stop early."""
        if self.options.evaluation is not None:
            self._evaluate(step, self.options.evaluation)
        if self.options.output_dir is not None:
            ranks = distributed.gather_objects({"now": randomness.capture(), "epoch_start": state["epoch_start"]})
            if distributed.is_main():
                protect = () if self.best_step is None else (self.best_step,)
                whole = {**state, "ranks": ranks, "events": self.recorder.positions(), "keeper": self._state()}
                checkpoint.save(self.options.output_dir, step, self.student, whole, protect=protect,
                                keep_last=self.options.keep_last)
            distributed.wait_for_all()
        self.last_saved = step
        if self.options.callback is not None:
            with modes.restored(self.student), randomness.untouched():
                self._take(step, self.options.callback(model=self.student, step=step))
        if self.options.output_dir is not None:
            self.recorder.emit(CheckpointSaved(step, name=f"gs{step}"))
        return self._out_of_patience(step)

    def newest_state(self) -> Any | None:
        """The newest checkpoint's state, its weights brought back into the student; None to start afresh."""
        if not self.options.resume or self.options.output_dir is None:
            return None
        folder = checkpoint.newest(self.options.output_dir)
        if folder is None:
            return None
        state = checkpoint.load_state(folder)
        if len(state["ranks"]) != distributed.world_size():
            raise CheckpointError(f"{folder} was written by {len(state['ranks'])} processes, and there are "
                                  f"{distributed.world_size()} now; go on with as many")
        checkpoint.load_student(folder, self.student)
        kept = state["keeper"]
        self.evaluations, self.best_step, self.last_saved = kept["evaluations"], kept["best_step"], state["step"]
        returned = callback_metrics.load(folder)
        if returned is None:
            return state
        self.evaluations.setdefault(state["step"], {}).update(returned[0])
        return {**state, "events": returned[1]}

    def _state(self) -> dict[str, Any]:
        return {"evaluations": self.evaluations, "best_step": self.best_step}

    def _evaluate(self, step: int, evaluation: Evaluation) -> None:
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        if distributed.is_main():
            with modes.evaluation(self.student), torch.no_grad(), randomness.untouched():
                metrics = {name: float(value) for name, value in evaluation.function(self.student).items()}
        metrics = distributed.same_on_all(metrics)
        if evaluation.monitor not in metrics:
            raise PlanError(f"the evaluation gave no {evaluation.monitor!r} to pick the best checkpoint by; "
                            f"it gave {', '.join(metrics)}")
        self.evaluations[step] = metrics
        best = self.best_step is None or _better(metrics, self.evaluations[self.best_step], evaluation)
        if best:
            self.best_step = step
        self.recorder.emit(Evaluated(step, metrics=metrics, best=best, seconds_s=time.perf_counter() - started))

    def _take(self, step: int, returned: Any) -> None:
        """Metrics that a callback returned are logged like an evaluation's; the rest is passed over with a warning."""
        metrics, others = callback_metrics.split(returned)
        new = [name for name in others if name not in self._passed_over]
        if new:
            self._passed_over |= set(new)
            warnings.warn(f"the callback returned {', '.join(new)}, which is passed over: metrics are a mapping of "
                          "names, or of tasks and names, to numbers", stacklevel=2)
        if not metrics:
            return
        self.evaluations.setdefault(step, {}).update(metrics)
        self.recorder.emit(Evaluated(step, metrics=metrics))
        if self.options.output_dir is not None and distributed.is_main():
            callback_metrics.save(self.options.output_dir / f"gs{step}", metrics, self.recorder.positions())

    def _out_of_patience(self, step: int) -> bool:
        evaluation = self.options.evaluation
        if evaluation is None or evaluation.patience is None or self.best_step is None:
            return False
        return sum(self.best_step < done <= step for done in self.evaluations) >= evaluation.patience


def _better(new: Mapping[str, float], old: Mapping[str, float], evaluation: Evaluation) -> bool:
    sign = -1 if evaluation.lower_is_better else 1
    return sign * new[evaluation.monitor] > sign * old[evaluation.monitor]
