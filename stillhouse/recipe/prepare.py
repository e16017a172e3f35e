"""Everything that a run needs, loaded and checked before anything is trained or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.adaptors import ModuleOutputs
from stillhouse.errors import ConfigError
from stillhouse.plan import Distillation
from stillhouse.recipe import fitting
from stillhouse.recipe.asking_again import Asking, Gpu, asking
from stillhouse.recipe.attention_maps import compares_attention, give_attention_maps
from stillhouse.recipe.cache_size import AnswerSizes
from stillhouse.recipe.caching import CachePlan, CacheWish, plan_cache
from stillhouse.recipe.compiling import check_compilation
from stillhouse.recipe.fitting import Ground
from stillhouse.recipe.objectives import distillation_objective, supervised_objective
from stillhouse.recipe.reading import Reading, labelled_rows, load_task, read_by_both
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.student_making import NewStudent, make_student
from stillhouse.recipe.teacher_loading import load_teaching
from stillhouse.recipe.teaching import StandIns, Teaching
from stillhouse.recipe.tracking import require_trackers
from stillhouse.tasks import EncodedSplit, Task
from stillhouse.tasks.augmentation import augmented
from stillhouse.teachers import NoTeacher
from stillhouse.training import LoaderSource, Precision, resolve_device, resolve_precision, total_steps
from stillhouse.training.randomness import seeded
from stillhouse.types import Key


@dataclass(frozen=True)
class Distilling:
    """A teacher and the student that learns from it.

    Attributes:
        student: on the CPU, untrained, and what is known of it.
        reading: the rows as both models read them.
        plan: the student, the teacher and the objective, checked against each other.
        cache: how the teacher's answers are kept.
    """

    student: NewStudent
    reading: Reading
    plan: Distillation
    cache: CachePlan


@dataclass
class Prepared:
    """The parts of a run. The teachers are the base models until they have been fine-tuned, if they are to be.

    Attributes:
        augmented: how many training rows were added, and from where; empty without augmentation.
    """

    recipe: Recipe
    task: Task[Any]
    augmented: str
    teaching: Teaching
    device: torch.device
    precision: Precision
    stand_ins: StandIns
    distilling: Distilling
    total_steps: int

    @property
    def student(self) -> PreTrainedModel:
        """The student, trained or not yet."""
        return self.distilling.student.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What the student reads with."""
        return self.distilling.student.tokenizer

    @property
    def splits(self) -> Mapping[str, EncodedSplit]:
        """The rows as the student reads them."""
        return self.distilling.reading.student

    @property
    def ground(self) -> Ground:
        """What the student's training needs to know of the data."""
        return Ground(self.task, self.distilling.reading.train, self.splits["validation"], self.device)

    @property
    def teacher_ground(self) -> Ground:
        """The same for the fine-tuning of a teacher: rows with labels, as the teacher reads them."""
        assert self.teaching.tokenizer is not None
        reading = self.distilling.reading
        validation = reading.teacher["validation"]
        assert isinstance(validation, EncodedSplit)  # what models read
        labelled = labelled_rows(self.task, reading.teacher["train"], self.teaching.tokenizer)
        return Ground(self.task, labelled, validation, self.device)

    @property
    def contrast_ground(self) -> Ground:
        """The same for the student without a teacher."""
        labelled = labelled_rows(self.task, self.splits["train"], self.tokenizer)
        return Ground(self.task, labelled, self.splits["validation"], self.device)

    @property
    def reported_split(self) -> str:
        """The split whose metrics are the run's result."""
        return "test" if "test" in self.splits else "validation"


def prepare(recipe: Recipe, stand_ins: StandIns | None = None) -> Prepared:
    """Load data and models, and check that they fit together. Nothing is written.

    Raises `ConfigError`, `DataError` and `PlanError` for all that can be known before training.
    """
    require_trackers(recipe.trackers)
    stand_ins = stand_ins or {}
    device = resolve_device(recipe.training.device)
    precision = resolve_precision(recipe.training.precision, device)
    task = load_task(recipe)
    teaching = load_teaching(recipe.teacher, task, stand_ins, device)
    augmented = add_rows(recipe, task, teaching)
    distilling = _distilling(recipe, task, teaching, stand_ins, precision)
    fitting.check_gradient_checkpointing(distilling.student.model, recipe.training, "training")
    check_compilation(distilling.student.model, recipe.training, device)
    fitting.check_embedding_updates(distilling.student.model, recipe.training, precision)
    training = recipe.training
    loader = task.loader(distilling.reading.train, batch_size=training.batch_size, seed=training.seed, shuffle=True)
    steps = total_steps(LoaderSource(loader), fitting.options_of(training, len(loader), precision, device))
    assert steps is not None
    return Prepared(recipe, task, augmented, teaching, device, precision, stand_ins, distilling, steps)


def with_trained_teachers(prepared: Prepared, models: list[PreTrainedModel]) -> Prepared:
    """The same run after its teachers were fine-tuned: the student is made from the teacher as it is now."""
    teaching = prepared.teaching.with_models(models)
    distilling = _distilling(prepared.recipe, prepared.task, teaching, prepared.stand_ins, prepared.precision,
                             prepared.distilling.reading)
    return dataclasses.replace(prepared, teaching=teaching, distilling=distilling)


def _distilling(recipe: Recipe, task: Task[Any], teaching: Teaching, stand_ins: StandIns, precision: Precision,
                reading: Reading | None = None) -> Distilling:
    """Student, plan and cache. With a ``reading``, from before its training, the teacher is what will teach."""
    matched = teaching.matched
    if matched is not None and compares_attention(recipe.distillation):
        give_attention_maps(matched)
    student = make_student(recipe, task, teaching, stand_ins)
    is_known = teaching.is_known or reading is not None
    reading = reading or read_by_both(recipe, task, teaching, student)
    with seeded(recipe.training.seed):  # the same seed gives the same projections
        objective = distillation_objective(recipe.distillation, task, None if matched is None else matched.config,
                                           student.model.config, task.spec.max_length)
    source = teaching.source(task, precision.autocast_dtype)
    plan = Distillation(student.model, ModuleOutputs(task.adaptor()), source, objective)
    keys = plan.needs()["default"].teacher
    fingerprint = source.fingerprint if is_known else None
    computes_in = precision.autocast_dtype if teaching.members else None
    cache = plan_cache(CacheWish(recipe.cache, recipe.cache_dtype, recipe.cache_budget), computes_in, fingerprint, keys,
                       AnswerSizes(task.predicts, source.width, reading.teacher["train"].lengths,
                                   reading.student["train"].choices, max(1, len(teaching.members))),
                       obstacle=_obstacle(task, teaching), has_name=not is_known or fingerprint is not None,
                       asking=_asking(recipe, teaching, keys, reading, computes_in),
                       about={"teacher": teaching.full_origin, "task": recipe.task})
    return Distilling(student, reading, plan, cache)


def _asking(recipe: Recipe, teaching: Teaching, keys: frozenset[Key], reading: Reading,
            computes_in: torch.dtype | None) -> Asking | None:
    """What it takes to ask a GPU again; None where nobody would: on a CPU, and for logits alone, which are little."""
    if all(key.kind == "logits" for key in keys) or any(member.quantization for member in teaching.members):
        return None
    training, rows = recipe.training, reading.student["train"]
    passes = training.epochs or (training.steps or 0) * training.accumulation * training.batch_size / len(rows)
    gpu = Gpu.of(resolve_device(training.device))
    return asking([member.model for member in teaching.members], gpu, computes_in, batch_size=training.batch_size,
                  text_tokens=float(reading.teacher["train"].lengths.mean()), passes=passes, choices=rows.choices)


def _obstacle(task: Task[Any], teaching: Teaching) -> str:
    """Why the teacher's answers cannot be kept; empty if they can."""
    return teaching.obstacle or ("" if task.repeats_inputs else "every epoch shows the rows with other words hidden")


def add_rows(recipe: Recipe, task: Task[Any], teaching: Teaching) -> str:
    """Add the rows that the recipe's augmentation makes, and say how many; `ConfigError` if nobody labels them."""
    if recipe.augmentation is None:
        return ""
    section = recipe.distillation
    if not teaching.labels_new_texts:
        raise ConfigError("augmentation: the teacher's numbers are those of the texts in the data and say nothing "
                          "about others; leave augmentation out, or give a teacher that is a model or a function")
    if not section.loss_weight and not section.matches:
        raise ConfigError("augmentation: its rows have no labels but what the teacher says of them, and nothing is "
                          "learned from the teacher here; raise distillation.loss_weight, or leave augmentation out")
    found = augmented(task, recipe.augmentation, None if teaching.tokenizer is None else teaching.tokenizer.mask_token)
    task.add_examples(found.examples)
    return found.description


def supervised_plan(task: Task[Any], model: PreTrainedModel) -> Distillation:
    """Training on the labels alone."""
    return Distillation(model, task.adaptor(), NoTeacher(), supervised_objective(task))
