"""What a recipe would do, as text: nothing is trained and nothing is written."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from stillhouse.errors import ConfigError
from stillhouse.model_size import count_parameters, size_bytes
from stillhouse.recipe.prepare import Prepared, prepare
from stillhouse.recipe.run_folder import RunFolder
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.stages import prepared_stages
from stillhouse.recipe.teaching import Member
from stillhouse.students.shapes import DEPTH, WIDTH, size_of
from stillhouse.tasks import Task
from stillhouse.tasks.repetitions import repetitions
from stillhouse.units import readable_bytes


def plan(recipe: Recipe) -> str:
    """Models, sizes, what is asked of the teacher, steps and storage. Raises what `run` would raise
    before training, but for an output folder in use.
    """
    if not recipe.stages:
        return plan_text(prepare(recipe))
    parts = []
    for prepared in prepared_stages(recipe):
        parts.append(f"stage {prepared.recipe.name}\n{plan_text(prepared)}")
    return "\n\n".join(parts)


def plan_text(prepared: Prepared) -> str:
    """The lines of one run."""
    recipe, task = prepared.recipe, prepared.task
    rows = ", ".join(f"{split} {number:,}" for split, number in task.num_rows.items())
    lines = [
        ("task", f"{recipe.task}, {_labels(task)}chosen by {task.metric}"),
        ("data", f"{rows} rows; {prepared.splits['train'].mean_length:.1f} tokens a row on average"),
        *([("", prepared.augmented)] if prepared.augmented else []),
        *(("", f"note: {note}") for note in repetitions(task)),
        *_teacher_lines(prepared),
        ("student", prepared.distilling.student.origin),
        ("", _size_line(prepared.student)),
        ("needs", prepared.distilling.plan.needs()["default"].describe()),
        ("training", _training_line(prepared)),
        ("cache", prepared.distilling.cache.description.removeprefix("teacher cache: ")),
        ("contrast", _contrast_line(prepared)),
        ("output", _output_line(recipe)),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _labels(task: Task[Any]) -> str:
    return f"{len(task.label_names)} labels, " if len(task.label_names) > 1 else ""


def _teacher_lines(prepared: Prepared) -> list[tuple[str, str]]:
    teaching = prepared.teaching
    if not teaching.members:
        return [("teacher", teaching.origin)]
    lines = []
    for number, member in enumerate(teaching.members):
        lines += [("" if number else "teacher", _member_line(member)), ("", _size_line(member.model))]
        if member.quantization is not None:
            lines.append(("", _quantization_line(member)))
    if len(teaching.members) > 1:
        lines.append(("", f"together by the mean of their {teaching.section.average}"))
    return lines


def _member_line(member: Member) -> str:
    entry, training = member.entry, member.training
    if entry is None or training is None:
        return f"{member.path}, as it is"
    seed = f" with seed {training.seed}" if training.seed else ""
    if entry.is_stored:
        return f"{member.path}, fine-tuned before{seed}, in {entry.folder}"
    length = f"{training.epochs:g} epochs" if training.epochs else f"{training.steps} steps"
    folder = entry.folder.parent if member.is_stand_in else entry.folder  # its name is not known yet
    return f"{member.path}, to be fine-tuned for {length}{seed} and kept in {folder}"


def _quantization_line(member: Member) -> str:
    if member.answering is member.model:
        return f"then answers in {member.quantization}"
    return f"answers in {member.quantization}, {readable_bytes(size_bytes(member.answering))}"


def _contrast_line(prepared: Prepared) -> str:
    if prepared.recipe.contrast == "none":
        return "none"
    starts_from = prepared.distilling.student.starts_from
    if not prepared.task.has_labels:
        return f"the same student as it starts, from {starts_from}: there are no labels to train it on"
    return f"the same student, from {starts_from}, without a teacher, as many steps"


def _output_line(recipe: Recipe) -> str:
    try:
        RunFolder(recipe, resume=False, overwrite=False)
    except ConfigError as error:
        return f"{recipe.output}; run would refuse it: {str(error).removeprefix('output: ')}"
    return recipe.output


def _size_line(model: PreTrainedModel) -> str:
    depth, width = (size_of(model.config, name) for name in (DEPTH, WIDTH))
    return (f"{type(model).__name__}, {depth} layer{'' if depth == 1 else 's'} x {width}, "
            f"{count_parameters(model):,} parameters, {readable_bytes(size_bytes(model))}")


def _training_line(prepared: Prepared) -> str:
    training = prepared.recipe.training
    length = f"{training.epochs:g} epochs, " if training.epochs else ""
    return (f"{length}{prepared.total_steps:,} steps of {training.batch_size * training.accumulation} rows, on "
            f"{prepared.device} in {prepared.precision}")
