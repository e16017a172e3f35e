"""One training inside a run (of the teacher, the student or its contrast): the loop with a recipe's settings."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from stillhouse.errors import CheckpointError, ConfigError, PlanError
from stillhouse.modes import device_of
from stillhouse.plan import Distillation
from stillhouse.recipe import optimization
from stillhouse.recipe.compiling import compiled
from stillhouse.recipe.training_schema import StudentTraining, TrainingSettings
from stillhouse.tasks import EncodedSplit, Task
from stillhouse.tasks.batching import EncodedRows
from stillhouse.training import (
    BatchSource,
    Evaluation,
    FitOptions,
    JsonLinesSink,
    LoaderSource,
    Precision,
    PrefetchSource,
    Profile,
    Sink,
    distributed,
    fit,
    total_steps,
)
from stillhouse.training.checkpoint import load_student, newest
from stillhouse.training.randomness import seed_everything
from stillhouse.training.touched_rows import only_touched_rows, word_table
from stillhouse.whole_files import write_json

_LARGE_TABLE = 1_000_000
"""Numbers of a table of word embeddings from which on it is worth passing over the rows that a step does not touch."""


@dataclass(frozen=True)
class PhaseRecord:
    """What is known of a training beside its checkpoints; written at each of them, and when it is over.

    ``seconds_s`` and ``rows_forwarded`` (of the teacher) add up over interruptions, up to the last checkpoint of each.
    """

    finished: bool
    data: str
    steps: int
    best_step: int | None = None
    reason: str = ""
    seconds_s: float = 0.0
    rows_forwarded: int = 0
    evaluations: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> PhaseRecord | None:
        """The record in a folder of checkpoints, or None. Raises `CheckpointError` if it is damaged."""
        path = folder / "phase.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); start again with --overwrite") from error

    def write(self, folder: Path) -> None:
        """Write aside, then rename."""
        if distributed.is_main():
            write_json(folder / "phase.json", dataclasses.asdict(self))


@dataclass(frozen=True)
class Ground:
    """What every training of a run shares: the task, its encoded rows, the device."""

    task: Task[Any]
    train: EncodedRows
    validation: EncodedSplit
    device: torch.device


@dataclass(frozen=True)
class Phase:
    """Where one training keeps its things, who watches, and what is measured of it."""

    checkpoints_dir: Path
    events_path: Path
    resume: bool
    sinks: Sequence[Sink] = ()
    profile: Profile | None = None


def options_of(settings: TrainingSettings, num_batches: int, precision: Precision, device: torch.device,
               **extra: Any) -> FitOptions:
    """The loop's options without what only a running training has."""
    steps = optimization.steps_per_epoch(num_batches, settings.accumulation)
    return FitOptions(
        num_epochs=settings.epochs, num_steps=settings.steps, accumulation=settings.accumulation,
        max_grad_norm=settings.max_grad_norm, precision=precision, device=device,
        save=optimization.save_policy(settings, steps, settings.steps or round(steps * (settings.epochs or 0))),
        keep_last=settings.keep_last, log_every=settings.log_every, **extra)


def train(plan: Distillation, settings: TrainingSettings, precision: Precision, ground: Ground,
          phase: Phase) -> PhaseRecord:
    """Train the plan's student and leave the weights of its best checkpoint in it.

    With ``phase.resume`` a finished training is only brought back, and an interrupted one goes on.
    """
    can_resume = phase.resume and newest(phase.checkpoints_dir) is not None
    earlier = PhaseRecord.read(phase.checkpoints_dir) if can_resume else None
    if earlier is not None and earlier.data != ground.task.fingerprint:
        raise CheckpointError(f"the data has changed since the checkpoints in {phase.checkpoints_dir} were written; "
                              "bring the old data back, or start again with --overwrite")
    if earlier is not None and earlier.finished and phase.profile is not None:
        warnings.warn("the student is trained already, so that nothing was measured; --overwrite trains it again",
                      stacklevel=2)
    if earlier is None or not earlier.finished:
        earlier = _fit(plan, settings, precision, ground, phase, earlier)
    best = phase.checkpoints_dir / f"gs{earlier.best_step}"
    load_student(best, plan.student)
    plan.student.to(ground.device)
    return earlier


def _fit(plan: Distillation, settings: TrainingSettings, precision: Precision, ground: Ground, phase: Phase,
         earlier: PhaseRecord | None) -> PhaseRecord:
    if distributed.is_main() and newest(phase.checkpoints_dir) is None:
        phase.events_path.unlink(missing_ok=True)
    started = time.perf_counter()
    before = earlier or PhaseRecord(finished=False, data=ground.task.fingerprint, steps=0)

    def record(step: int, **values: Any) -> PhaseRecord:
        rows = sum(distributed.gather_objects(plan.teacher.rows_forwarded))
        return dataclasses.replace(before, steps=step, seconds_s=before.seconds_s + time.perf_counter() - started,
                                   rows_forwarded=before.rows_forwarded + rows, **values)

    def keep_record(model: nn.Module, step: int) -> None:
        record(step).write(phase.checkpoints_dir)

    source = _source(plan, ground, settings)
    options = options_of(settings, source.num_batches or 0, precision, ground.device, output_dir=phase.checkpoints_dir,
                         resume=phase.resume, callback=keep_record, profile=phase.profile,
                         evaluation=_evaluation(ground, settings, precision))
    seed_everything(settings.seed)
    plan.student.to(ground.device)
    plan.objective.to(ground.device)
    optimizer, scheduler = _optimizer(plan, settings, source, options)
    with (compiled(plan.student, settings), _recomputed(plan.student, settings.gradient_checkpointing),
          _embeddings_updated(plan, settings, precision, optimizer)):
        sinks = [JsonLinesSink(phase.events_path), *phase.sinks] if distributed.is_main() else []
        result = fit(plan, source, optimizer, dataclasses.replace(options, sinks=sinks), scheduler)
    done = record(result.steps, finished=True, best_step=result.best_step, reason=result.reason,
                  evaluations={str(step): dict(metrics) for step, metrics in result.evaluations.items()})
    done.write(phase.checkpoints_dir)
    distributed.wait_for_all()
    return done


def _source(plan: Distillation, ground: Ground, settings: TrainingSettings) -> PrefetchSource:
    keys = plan.needs()["default"].teacher
    loader = ground.task.loader(ground.train, batch_size=settings.batch_size, seed=settings.seed, shuffle=True)
    return PrefetchSource(LoaderSource(loader), lambda batch: plan.teacher.lookup(batch, keys),
                          pinned=ground.device.type == "cuda")


def _optimizer(plan: Distillation, settings: TrainingSettings, source: BatchSource,
               options: FitOptions) -> tuple[AdamW, LambdaLR]:
    """The optimizer over all that is trained, and its learning rate's schedule."""
    optimizer = optimization.adamw([plan.student, plan.objective], settings.learning_rate, settings.weight_decay)
    steps, num_batches = total_steps(source, options), source.num_batches
    assert steps is not None and num_batches is not None  # the task's loaders have a length
    per_epoch = optimization.steps_per_epoch(num_batches, settings.accumulation)
    warmup = optimization.warmup_steps(settings, per_epoch, steps)
    return optimizer, optimization.learning_rate_schedule(optimizer, settings.schedule, warmup, steps)


@contextmanager
def _recomputed(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Activations are computed again in the backward pass inside, if ``enabled``."""
    if not enabled:
        yield
        return
    # Newer versions of transformers have it under a new name and warn about the old one.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()


def _evaluation(ground: Ground, settings: TrainingSettings, precision: Precision) -> Evaluation:
    def judge(model: nn.Module) -> Mapping[str, float]:
        return ground.task.evaluate(model, ground.validation, autocast_dtype=precision.autocast_dtype).metrics

    return Evaluation(judge, monitor=ground.task.metric, patience=settings.early_stopping)


@contextmanager
def _embeddings_updated(plan: Distillation, settings: TrainingSettings, precision: Precision,
                        optimizer: AdamW) -> Iterator[None]:
    """Word embeddings are updated inside as the settings say."""
    if not _updates_touched_rows(plan.student, settings, precision):
        yield
        return
    with only_touched_rows(word_table(plan.student), optimizer):
        yield


def _updates_touched_rows(model: nn.Module, settings: TrainingSettings, precision: Precision) -> bool:
    """Whether AdamW works on the rows of the batch's words alone."""
    if not isinstance(settings, StudentTraining) or settings.embedding_updates == "all":
        return False
    if settings.embedding_updates == "touched":
        return True
    if device_of(model).type != "cpu" or _obstacle_to_touched_rows(model, precision):
        return False
    return word_table(model).weight.numel() >= _LARGE_TABLE


def _obstacle_to_touched_rows(model: nn.Module, precision: Precision) -> str:
    """Why only all word embeddings can be updated; empty if nothing is in the way."""
    number = distributed.world_size()
    if number > 1:
        return f"touched works in one process, and there are {number}, whose weights would drift apart"
    if precision.autocast_dtype is torch.float16:
        return "touched cannot skip the steps that overflow in fp16, but in bf16 and fp32 nothing does"
    try:
        word_table(model)
    except PlanError as error:
        return str(error)
    return ""


def check_embedding_updates(model: nn.Module, settings: TrainingSettings, precision: Precision) -> None:
    """Raise `ConfigError` if only the touched rows are to be updated and that cannot be."""
    if not isinstance(settings, StudentTraining) or settings.embedding_updates != "touched":
        return
    obstacle = _obstacle_to_touched_rows(model, precision)
    if obstacle:
        raise ConfigError(f"training.embedding_updates: {obstacle}; set training.embedding_updates to all")


def check_gradient_checkpointing(model: nn.Module, settings: TrainingSettings, where: str) -> None:
    """Raise `ConfigError` if it is asked for and the model cannot do it."""
    if settings.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
        raise ConfigError(f"{where}.gradient_checkpointing: {type(model).__name__} cannot do that; set it to false")
