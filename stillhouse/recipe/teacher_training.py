"""Fine-tuning the teachers first, each once: found in the store, or trained and put there."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from stillhouse.recipe.fitting import Ground, Phase, PhaseRecord, train
from stillhouse.recipe.prepare import Prepared, supervised_plan
from stillhouse.recipe.teaching import Member
from stillhouse.training import distributed, resolve_precision


def trained_teachers(prepared: Prepared, phases: Callable[[str], Phase],
                     say: Callable[[str], None]) -> tuple[list[PreTrainedModel], float]:
    """The models ready to teach, and the seconds that their training took in this run (0 if it took place before it).

    ``phases`` gives the place of a training by its name, `teacher_phase`.
    """
    models, seconds_s = [], 0.0
    members = prepared.teaching.members
    ground = prepared.teacher_ground if any(not member.is_trained for member in members) else None
    for number, member in enumerate(members):
        model, took_s = _trained(prepared, member, ground, phases(teacher_phase(number, len(members))), say)
        models.append(model)
        seconds_s += took_s
    return models, seconds_s


def teacher_phase(number: int, total: int) -> str:
    """What the training of a teacher is called in a run folder."""
    return "teacher" if total == 1 else f"teacher-{number}"


def _trained(prepared: Prepared, member: Member, ground: Ground | None, phase: Phase,
             say: Callable[[str], None]) -> tuple[PreTrainedModel, float]:
    entry, settings = member.entry, member.training
    if entry is None or settings is None:
        return member.model, 0.0
    metric = prepared.task.metric
    if entry.is_stored or ground is None:
        value = entry.metrics()[metric]
        say(f"teacher: fine-tuned before, taken from {entry.folder} ({metric} {value:.4f} on the validation data)")
        return entry.load(prepared.task), _seconds_before_interruption(phase)
    length = f"{settings.epochs:g} epochs" if settings.epochs else f"{settings.steps} steps"
    say(f"teacher: fine-tuning {member.path} for {length}; it will be kept in {entry.folder} and used again")
    precision = resolve_precision(settings.precision, prepared.device)
    record = train(supervised_plan(prepared.task, member.model), settings, precision, ground, phase)
    metrics = record.evaluations[str(record.best_step)]
    assert prepared.teaching.tokenizer is not None
    if distributed.is_main():
        entry.store(member.model, prepared.teaching.tokenizer, metrics)
    distributed.wait_for_all()
    # Read back, so that a run does not depend on whether the teacher was stored before it or by it.
    return entry.load(prepared.task), record.seconds_s


def _seconds_before_interruption(phase: Phase) -> float:
    record = PhaseRecord.read(phase.checkpoints_dir) if phase.resume else None
    return record.seconds_s if record is not None and record.finished else 0.0
