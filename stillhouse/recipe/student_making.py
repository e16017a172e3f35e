"""The student of a run: made from a model, loaded, or the one of an earlier stage; with the tokenizer it reads with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.errors import PlanError, about
from stillhouse.recipe.attention_maps import compares_attention, trained_on_attention_maps
from stillhouse.recipe.models_schema import StudentSection
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.teacher_loading import standing_in
from stillhouse.recipe.teaching import Loaded, StandIns, Teaching
from stillhouse.recipe.vocabulary import read_alike, require_embeddings
from stillhouse.students import StudentSpec, build_student, plan_student
from stillhouse.students.vocabulary import plan_trimming, trim_embeddings
from stillhouse.tasks import Task
from stillhouse.tasks.pretrained import require_fit
from stillhouse.training.randomness import seeded


@dataclass(frozen=True)
class NewStudent:
    """An untrained student on the CPU.

    Attributes:
        model: the student.
        tokenizer: what it reads with.
        origin: a line that says what it is.
        starts_from: where its weights are from, in a few words.
        reads_as_teacher: whether its token ids mean what they mean to the teacher.
        attention_dropouts: those of its configuration, if it is trained without them.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    origin: str
    starts_from: str
    reads_as_teacher: bool
    attention_dropouts: Mapping[str, float]


def make_student(recipe: Recipe, task: Task[Any], teaching: Teaching, stand_ins: StandIns) -> NewStudent:
    """The untrained student, whether a teacher will train it or not. The same seed gives the same weights.

    If the recipe compares attention maps, it gives them and has no dropout on them.
    """
    section, seed = recipe.student, recipe.training.seed
    if section.is_whole:
        loaded, origin, starts_from = _whole(section, task, stand_ins, seed)
    else:
        loaded, origin, starts_from = _made(section, task, _origin(section, task, teaching, seed), seed)
    if section.vocabulary == "trimmed":
        loaded, cut = _trimmed(loaded, task)
        origin += cut
    reads_as_teacher = teaching.tokenizer is None or read_alike(teaching.tokenizer, loaded.tokenizer)
    if not compares_attention(recipe.distillation):
        return NewStudent(loaded.model, loaded.tokenizer, origin, starts_from, reads_as_teacher, {})
    model, dropouts = trained_on_attention_maps(loaded.model)
    return NewStudent(model, loaded.tokenizer, origin + (", attention dropout off" if dropouts else ""), starts_from,
                      reads_as_teacher, dropouts)


def _origin(section: StudentSection, task: Task[Any], teaching: Teaching, seed: int) -> Loaded:
    """The model that the student is made from, and its tokenizer."""
    if section.base is None:
        if teaching.matched is None or teaching.tokenizer is None:
            raise PlanError("student: there is no teacher model to make it from; name another with base: PATH beside "
                            "the shape, or give a whole student as {model: PATH}")
        return Loaded(teaching.matched, teaching.tokenizer)
    with seeded(seed), about("student.base"):
        loaded = Loaded(task.load_model(section.base), task.load_tokenizer(section.base))
    require_embeddings(*loaded, f"student.base {section.base!r}")
    return loaded


def _made(section: StudentSection, task: Task[Any], origin: Loaded, seed: int) -> tuple[Loaded, str, str]:
    spec = StudentSpec(shape=section.shape, layers=section.layers, keep=section.keep, config=section.config,
                       network=section.network)
    plan = plan_student(origin.model.config, spec)
    with about("student"):
        require_fit("made from the teacher", plan.config, task.model_wanted)
        model = build_student(origin.model, spec, seed=seed)
    description, starts_from = (text if section.base is None else text.replace("the teacher's", f"{section.base}'s")
                                for text in (plan.description, plan.starts_from))
    return Loaded(model, origin.tokenizer), description, starts_from


def _whole(section: StudentSection, task: Task[Any], stand_ins: StandIns, seed: int) -> tuple[Loaded, str, str]:
    path = str(section.model)
    if path in stand_ins:
        loaded = standing_in(stand_ins[path], path, "student.model", task, seed=seed)
        return loaded, f"the student of an earlier stage, {path}", path
    with seeded(seed), about("student.model"):
        loaded = Loaded(task.load_model(path), task.load_tokenizer(path))
    require_embeddings(*loaded, f"student.model {path!r}")
    return loaded, f"loaded from {path}", path


def _trimmed(loaded: Loaded, task: Task[Any]) -> tuple[Loaded, str]:
    """The same with the tokens alone that occur in the training data."""
    with about("student.vocabulary"):
        ids = task.encode("train", loaded.tokenizer).tokens["input_ids"]
        vocabulary = plan_trimming(loaded.tokenizer, set(np.unique(ids.flat).tolist()))
        before = loaded.model.config.vocab_size
        trim_embeddings(loaded.model, vocabulary)
    return (Loaded(loaded.model, vocabulary.tokenizer),
            f", with {len(vocabulary.kept):,} of {before:,} tokens in its vocabulary")
