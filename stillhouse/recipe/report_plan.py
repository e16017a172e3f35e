"""What a recipe would do, as text: nothing is trained and nothing is written."""

from __future__ import annotations

from transformers import PreTrainedModel

from stillhouse.model_size import count_parameters, size_bytes
from stillhouse.recipe.caching import readable_bytes
from stillhouse.recipe.prepare import Prepared, prepare
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.stages import prepared_stages


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
        ("task", f"{recipe.task}, {len(task.label_names)} labels, chosen by {task.metric}"),
        ("data", f"{rows} rows; {prepared.splits['train'].mean_length:.1f} tokens a row on average"),
        ("teacher", _teacher_line(prepared)),
        ("", _size_line(prepared.teacher)),
        ("student", prepared.student_origin),
        ("", _size_line(prepared.student)),
        ("needs", prepared.needs),
        ("training", _training_line(prepared)),
        ("cache", prepared.cache.description.removeprefix("teacher cache: ")),
        ("contrast", "none" if recipe.contrast == "none" else "the same student without a teacher, as many steps"),
        ("output", recipe.output),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _teacher_line(prepared: Prepared) -> str:
    teacher, entry = prepared.recipe.teacher, prepared.teacher_entry
    if entry is None or teacher.train is None:
        return f"{teacher.model}, as it is"
    if prepared.teacher_is_trained:
        return f"{teacher.model}, fine-tuned before, in {entry.folder}"
    length = f"{teacher.train.epochs:g} epochs" if teacher.train.epochs else f"{teacher.train.steps} steps"
    return f"{teacher.model}, to be fine-tuned for {length} and kept in {entry.folder}"


def _size_line(model: PreTrainedModel) -> str:
    config = model.config
    return (f"{type(model).__name__}, {config.num_hidden_layers} layers x {config.hidden_size}, "
            f"{count_parameters(model):,} parameters, {readable_bytes(size_bytes(model))}")


def _training_line(prepared: Prepared) -> str:
    training = prepared.recipe.training
    length = f"{training.epochs:g} epochs, " if training.epochs else ""
    return (f"{length}{prepared.total_steps:,} steps of {training.batch_size * training.accumulation} rows, on "
            f"{prepared.device} in {prepared.precision}")
