"""Loading who teaches, before any fine-tuning, and checking that it can teach this task."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from stillhouse.errors import ConfigError, PlanError, about
from stillhouse.recipe import fitting, teacher_store
from stillhouse.recipe.models_schema import TeacherSection
from stillhouse.recipe.quantization import Quantization
from stillhouse.recipe.teaching import (
    ColumnTeaching,
    FunctionTeaching,
    Loaded,
    Member,
    ModelsTeaching,
    StandIns,
    Teaching,
)
from stillhouse.recipe.training_schema import TeacherTraining
from stillhouse.recipe.vocabulary import require_embeddings, require_same_vocabulary
from stillhouse.tasks import Task
from stillhouse.tasks.model_paths import full_path
from stillhouse.tasks.pretrained import require_fit, with_head
from stillhouse.training import resolve_precision
from stillhouse.training.randomness import seeded


def load_teaching(section: TeacherSection, task: Task[Any], stand_ins: StandIns, device: torch.device) -> Teaching:
    """The teachers before any fine-tuning, or after it where they are stored fine-tuned.

    Raises `PlanError` for a model that was never trained for the task and is not to be, and for several whose
    vocabularies differ; `ConfigError` for a quantization that this machine cannot compute.
    """
    _require_sense(section, task)
    quantization = None if section.quantization is None else Quantization(section.quantization, device)
    if quantization is not None:
        quantization.require()
    if section.column is not None:
        return ColumnTeaching(section)
    if section.function is not None:
        return FunctionTeaching(section)
    members, tokenizer = [], None
    key = "teacher.models" if section.models else "teacher.model"
    for path, training in zip(section.paths, section.trainings, strict=True):
        loaded = _load(path, training, task, stand_ins, key)
        if tokenizer is None:
            tokenizer = loaded.tokenizer
        else:
            require_same_vocabulary(tokenizer, loaded.tokenizer, section.paths[0], path)
        member = _member(path, loaded, training, task, path in stand_ins, device)
        members.append(replace(member, quantization=quantization))
    return ModelsTeaching(section, tuple(members), tokenizer)


def _require_sense(section: TeacherSection, task: Task[Any]) -> None:
    """Raise for a way of teaching that means nothing in this task."""
    if section.train is not None and not task.has_labels:
        raise ConfigError(f"teacher.train: the data of {task.name} has no labels to fine-tune a teacher with; leave "
                          "train out, and give a model that is trained already")
    if (section.column or section.function) and (task.name != "text-classification" or task.problem_type !=
                                                 "single_label_classification"):
        raise PlanError(f"teacher.{'column' if section.column else 'function'}: probabilities of labels can only teach "
                        f"a text classification with one label a row, not {task.name}; give a model as teacher")
    if section.average == "probabilities" and task.kd_losses is not None:
        raise ConfigError("teacher.average: probabilities are those of labels of which one is right; with this kind of "
                          "label use average: logits")
    if section.size > 1 and task.signal == "embedding":
        raise ConfigError(f"teacher: the vectors of several models have no common meaning, so {section.size} teachers "
                          f"cannot teach {task.name} together; give one")


def _require_head(path: str, holds: Sequence[str], training: TeacherTraining | None, task: Task[Any], key: str) -> None:
    """Raise `PlanError` for a model that was never trained for the task and is not to be."""
    if training is None and task.has_labels and not any(name.endswith(task.head) for name in holds):
        raise PlanError(f"{key} {path!r} has no trained head for {task.name} (it holds "
                        f"{', '.join(holds) or 'an unnamed model'}), so it cannot teach yet; "
                        "add train: {epochs: 3, learning_rate: 5e-5} to the teacher, or give a fine-tuned model")


def _load(path: str, training: TeacherTraining | None, task: Task[Any], stand_ins: StandIns, key: str) -> Loaded:
    seed = training.seed if training else 0
    if path in stand_ins:
        holds = [type(stand_ins[path].model).__name__]
        _require_head(path, holds, training, task, key)
        return standing_in(stand_ins[path], path, key, task, seed=seed)
    with seeded(seed), about(key):
        model = task.load_model(path)
    _require_head(path, model.config.architectures or [], training, task, key)
    with about(key):
        tokenizer = task.load_tokenizer(path)
    require_embeddings(model, tokenizer, f"{key} {path!r}")
    return Loaded(model, tokenizer)


def _member(path: str, loaded: Loaded, training: TeacherTraining | None, task: Task[Any], is_stand_in: bool,
            device: torch.device) -> Member:
    if training is None:
        return Member(path, loaded.model, None, None, is_stand_in)
    fitting.check_gradient_checkpointing(loaded.model, training, "teacher.train")
    entry = teacher_store.entry_for(loaded.model, loaded.tokenizer, task, training,
                                    resolve_precision(training.precision, device), full_path(path))
    return Member(path, entry.load(task) if entry.is_stored else loaded.model, training, entry, is_stand_in)


def standing_in(stand_in: Loaded, path: str, key: str, task: Task[Any], *, seed: int) -> Loaded:
    """What stands in for the student of an earlier stage, with this task's head, if it could be loaded for it."""
    wanted = task.model_wanted
    with about(key):
        require_fit(path, stand_in.model.config, wanted, type(stand_in.model).__name__.endswith(wanted.head))
        with seeded(seed):
            # A copy, for what is planned of one stage must not change what stands in for another.
            return Loaded(with_head(copy.deepcopy(stand_in.model), wanted), stand_in.tokenizer)
