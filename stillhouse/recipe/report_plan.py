"""What a recipe would do, as text: nothing is trained and nothing is written."""

from __future__ import annotations

from transformers import PreTrainedModel

from stillhouse.errors import ConfigError
from stillhouse.model_size import count_parameters, size_bytes
from stillhouse.recipe.caching import readable_bytes
from stillhouse.recipe.prepare import Prepared, prepare
from stillhouse.recipe.run_folder import RunFolder
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
        ("student", prepared.distilling.origin),
        ("", _size_line(prepared.student)),
        ("needs", prepared.distilling.plan.needs()["default"].describe()),
        ("training", _training_line(prepared)),
        ("cache", prepared.distilling.cache.description.removeprefix("teacher cache: ")),
        ("contrast", _contrast_line(prepared)),
        ("output", _output_line(recipe)),
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
    folder = entry.folder.parent if prepared.teacher_is_stand_in else entry.folder  # its name is not known yet
    return f"{teacher.model}, to be fine-tuned for {length} and kept in {folder}"


def _contrast_line(prepared: Prepared) -> str:
    if prepared.recipe.contrast == "none":
        return "none"
    return f"the same student, from {prepared.distilling.starts_from}, without a teacher, as many steps"


def _output_line(recipe: Recipe) -> str:
    try:
        RunFolder(recipe, resume=False, overwrite=False)
    except ConfigError as error:
        return f"{recipe.output}; run would refuse it: {str(error).removeprefix('output: ')}"
    return recipe.output


def _size_line(model: PreTrainedModel) -> str:
    config = model.config
    return (f"{type(model).__name__}, {config.num_hidden_layers} layers x {config.hidden_size}, "
            f"{count_parameters(model):,} parameters, {readable_bytes(size_bytes(model))}")


def _training_line(prepared: Prepared) -> str:
    training = prepared.recipe.training
    length = f"{training.epochs:g} epochs, " if training.epochs else ""
    return (f"{length}{prepared.total_steps:,} steps of {training.batch_size * training.accumulation} rows, on "
            f"{prepared.device} in {prepared.precision}")
