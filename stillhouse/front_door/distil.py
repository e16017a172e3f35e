"""`distill`: a recipe's run from arguments, with models and data that may be in memory."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from stillhouse import plugins
from stillhouse.errors import ConfigError
from stillhouse.front_door.arguments import label_columns, require_task, sorted_settings, with_seed
from stillhouse.front_door.given import Given, in_the_users_words
from stillhouse.front_door.given_data import DataLike, given_splits
from stillhouse.front_door.given_models import GivenModels, StudentLike, TeacherLike, TokenizerLike
from stillhouse.front_door.result import DistillationResult
from stillhouse.recipe import Recipe, run
from stillhouse.recipe.merging import plugin_files
from stillhouse.recipe.run_folder import RunFolder
from stillhouse.training import Sink


def distill(
    *,
    teacher: TeacherLike,
    student: StudentLike,
    train: DataLike,
    task: str,
    validation: DataLike = None,
    test: DataLike = None,
    tokenizer: TokenizerLike = None,
    student_tokenizer: TokenizerLike = None,
    data: Mapping[str, Any] | None = None,
    distillation: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    sinks: Sequence[Sink] = (),
    **settings: Any,
) -> DistillationResult:
    """Train a student from a teacher, as a recipe does, and give back what came out.

    What is given as an object is written below the cache folder, named by its content, so that the run folder's
    ``recipe.yaml`` says everything: ``stillhouse run`` repeats it, and ``resume=True`` goes on with it.

    Args:
        teacher: a hub id, a folder or a loaded `PreTrainedModel`; a list of these, which teach together; or a
            recipe's section, as in ``{"model": ..., "train": {"epochs": 3}}`` or ``{"column": "probabilities"}``.
        student: a shape such as ``"T3"``, a network such as ``"BiGRU"``, a `StudentSpec`, a folder, hub id or loaded
            `PreTrainedModel`; or a recipe's section, as in ``{"keep": "half"}``.
        train: a path or hub id, a ``datasets.Dataset``, a pandas ``DataFrame`` or a list of mappings (or of texts,
            whose column is then called ``text``); or a ``DatasetDict``, whose splits are found by their names.
        task: what is learned, such as ``"text-classification"``.
        validation: as ``train``; picks the best checkpoint. Without it, a tenth of the training rows is held out.
        test: as ``train``; what is reported. Without it, the validation data is.
        tokenizer: of models that are given as objects; without it, each brings the one from where it was loaded.
        student_tokenizer: of a student that is given as an object, if it is not the teacher's.
        data: the recipe's section ``data`` without its splits. Its keys may also stand beside it: ``label="intent"``.
        distillation: the recipe's section of that name: what the student learns.
        training: the recipe's section of that name: how it is trained.
        seed: the same as ``training={"seed": ...}``.
        output: the run folder; without it, a new one below ``runs``.
        resume: go on with the run in ``output``, or see its results if it is finished.
        overwrite: replace the run in ``output``.
        progress: whether to tell what happens, on stderr or in the notebook.
        sinks: receive the events of every training.
        **settings: further keys of the recipe, such as ``cache="off"``, or of its section ``data``.

    Raises `ConfigError`, `DataError` and `PlanError` for whatever cannot work before anything is trained, and what
    `stillhouse.recipe.run` raises.
    """
    require_task(task)
    top, columns = sorted_settings(task, settings, data, _KEYWORDS)
    models = GivenModels(tokenizer, student_tokenizer)
    values: dict[str, Any] = {
        "task": task, "teacher": models.teacher_section(teacher), "student": models.student_section(student),
        "distillation": {} if distillation is None else distillation, "training": with_seed(training, seed),
        "output": _output(output, task, resume), **top,
    }
    models.require_tokenizers_used()
    splits = given_splits(train, validation, test, label_columns(task, columns))
    values["data"] = {**{split: str(one.path) if isinstance(one, Given) else one for split, one in splits.items()},
                      **columns}
    given = [*(one for one in splits.values() if isinstance(one, Given)), *models.found]
    plain = _plain(values)
    plugins.load_files(plugin_files(plain))
    with in_the_users_words(given):
        recipe = Recipe.from_dict(plain, where="stillhouse.distill")
        RunFolder(recipe, resume=resume, overwrite=overwrite)  # raises before anything that was given is written
        for one in given:
            one.keep()
        result = run(recipe, resume=resume, overwrite=overwrite, console=None if progress else Console(quiet=True),
                     sinks=sinks)
    return DistillationResult(result.output, result.metrics)


_KEYWORDS = [name for name in inspect.signature(distill).parameters if name != "settings"]


def _output(output: str | os.PathLike[str] | None, task: str, resume: bool) -> str:
    """The run folder; a new one if none is named. Raises `ConfigError` where that would make no sense."""
    if output is not None:
        return os.fspath(output)
    if resume:
        raise ConfigError("resume=True needs output=...: the folder of the run to go on with")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("output: several processes have to agree on one folder; give output=...")
    free = (Path("runs") / f"{task}-{number}" for number in count(1))
    return str(next(folder for folder in free if not folder.exists()))


def _plain(value: Any) -> Any:
    """Mappings and paths as a recipe file has them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
