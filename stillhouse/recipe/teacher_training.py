"""Fine-tuning the teacher first, once: found in the store, or trained and put there."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from stillhouse.recipe.fitting import Phase, PhaseRecord, train
from stillhouse.recipe.prepare import Prepared, supervised_plan
from stillhouse.training import distributed, resolve_precision


def trained_teacher(prepared: Prepared, phase: Phase, say: Callable[[str], None]) -> tuple[PreTrainedModel, float]:
    """The teacher ready to teach, and the seconds that its training took in this run (0 if it took place before it)."""
    entry, settings = prepared.teacher_entry, prepared.recipe.teacher.train
    if entry is None or settings is None:
        return prepared.teacher, 0.0
    metric = prepared.task.metric
    if prepared.teacher_is_trained:
        value = entry.metrics()[metric]
        say(f"teacher: fine-tuned before, taken from {entry.folder} ({metric} {value:.4f} on the validation data)")
        return prepared.teacher, _seconds_before_interruption(phase)
    length = f"{settings.epochs:g} epochs" if settings.epochs else f"{settings.steps} steps"
    say(f"teacher: fine-tuning {prepared.recipe.teacher.model} for {length}; it will be kept in {entry.folder} and "
        "used again")
    precision = resolve_precision(settings.precision, prepared.device)
    record = train(supervised_plan(prepared.task, prepared.teacher), settings, precision, prepared.ground, phase)
    metrics = record.evaluations[str(record.best_step)]
    if distributed.is_main():
        entry.store(prepared.teacher, prepared.tokenizer, metrics)
    distributed.wait_for_all()
    # Read back, so that a run does not depend on whether the teacher was stored before it or by it.
    return entry.load(prepared.task), record.seconds_s


def _seconds_before_interruption(phase: Phase) -> float:
    record = PhaseRecord.read(phase.checkpoints_dir) if phase.resume else None
    return record.seconds_s if record is not None and record.finished else 0.0
