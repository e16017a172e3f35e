"""Everything that a run needs, loaded and checked before anything is trained or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.adaptors import ModuleOutputs
from stillhouse.errors import ConfigError, PlanError, UsageError, unknown_name
from stillhouse.plan import Distillation
from stillhouse.recipe import fitting, teacher_store
from stillhouse.recipe.attention_maps import compares_attention, give_attention_maps, trained_on_attention_maps
from stillhouse.recipe.caching import CachePlan, plan_cache
from stillhouse.recipe.fitting import Ground
from stillhouse.recipe.objectives import distillation_objective, supervised_objective
from stillhouse.recipe.schema import Recipe, StudentSection
from stillhouse.recipe.vocabulary import require_embeddings, require_same_vocabulary
from stillhouse.students import StudentSpec, build_student, plan_student
from stillhouse.tasks import TASKS, DataSpec, EncodedSplit, Task
from stillhouse.tasks.pretrained import require_fit
from stillhouse.teachers import LiveTeacher, NoTeacher
from stillhouse.training import LoaderSource, Precision, resolve_device, resolve_precision, total_steps
from stillhouse.training.randomness import seed_everything, untouched


class Loaded(NamedTuple):
    """A model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class NewStudent(NamedTuple):
    """An untrained student on the CPU, a line that says what it is, and the attention dropouts it goes without."""

    model: PreTrainedModel
    origin: str
    attention_dropouts: Mapping[str, float]


StandIns = Mapping[str, Loaded]
"""For paths that an earlier stage has yet to write: a model of the same shape with the same tokenizer."""


@dataclass(frozen=True)
class Distilling:
    """A teacher and the student that learns from it.

    Attributes:
        student: on the CPU, untrained.
        origin: a line that says what the student is.
        attention_dropouts: those of the student's configuration, if it is trained without them.
        starts_from: ``"the teacher's layers"``, ``"scratch"`` or the path of a model.
        plan: the student, the live teacher and the objective, checked against each other.
        cache: how the teacher's answers are kept.
    """

    student: PreTrainedModel
    origin: str
    attention_dropouts: Mapping[str, float]
    starts_from: str
    plan: Distillation
    cache: CachePlan


@dataclass
class Prepared:
    """The parts of a run. ``teacher`` is the base model until it has been fine-tuned, if it is to be."""

    recipe: Recipe
    task: Task
    tokenizer: PreTrainedTokenizerBase
    splits: dict[str, EncodedSplit]
    device: torch.device
    precision: Precision
    teacher: PreTrainedModel
    teacher_entry: teacher_store.Entry | None
    teacher_is_trained: bool
    stand_ins: StandIns
    distilling: Distilling
    total_steps: int

    @property
    def student(self) -> PreTrainedModel:
        """The student, trained or not yet."""
        return self.distilling.student

    @property
    def teacher_is_stand_in(self) -> bool:
        """Whether the teacher is what an earlier stage has yet to train."""
        return str(self.recipe.teacher.model) in self.stand_ins

    @property
    def ground(self) -> Ground:
        """What every training of the run shares."""
        return Ground(self.task, self.splits["train"], self.splits["validation"], self.device)

    @property
    def reported_split(self) -> str:
        """The split whose metrics are the run's result."""
        return "test" if "test" in self.splits else "validation"


def prepare(recipe: Recipe, stand_ins: StandIns | None = None) -> Prepared:
    """Load data and models, and check that they fit together. Nothing is written.

    Raises `ConfigError`, `DataError` and `PlanError` for all that can be known before training.
    """
    stand_ins = stand_ins or {}
    training = recipe.training
    device = resolve_device(training.device)
    precision = resolve_precision(training.precision, device)
    if recipe.task not in TASKS:
        raise ConfigError("task: " + unknown_name("task", recipe.task, TASKS))
    task = TASKS[recipe.task](data_spec(recipe))
    task.load()
    base, tokenizer = load_teacher(recipe, task, stand_ins)
    splits = {split: task.encode(split, tokenizer) for split in task.num_rows}
    entry = None
    teacher = base
    if recipe.teacher.train is not None:
        fitting.check_gradient_checkpointing(base, recipe.teacher.train, "teacher.train")
        entry = teacher_store.entry_for(base, tokenizer, task, recipe.teacher.train,
                                        resolve_precision(recipe.teacher.train.precision, device))
        if entry.is_stored:
            teacher = entry.load(task)
    is_trained = entry is None or entry.is_stored
    is_known = is_trained and str(recipe.teacher.model) not in stand_ins
    distilling = _distilling(recipe, task, Loaded(teacher, tokenizer), stand_ins, precision, splits["train"], is_known)
    fitting.check_gradient_checkpointing(distilling.student, training, "training")
    loader = task.loader(splits["train"], batch_size=training.batch_size, seed=training.seed, shuffle=True)
    steps = total_steps(LoaderSource(loader), fitting.options_of(training, len(loader), precision, device))
    assert steps is not None
    return Prepared(recipe, task, tokenizer, splits, device, precision, teacher, entry, is_trained, stand_ins,
                    distilling, steps)


def with_trained_teacher(prepared: Prepared, teacher: PreTrainedModel) -> Prepared:
    """The same run after its teacher was fine-tuned: the student is made from the teacher as it is now."""
    distilling = _distilling(prepared.recipe, prepared.task, Loaded(teacher, prepared.tokenizer), prepared.stand_ins,
                             prepared.precision, prepared.splits["train"], teacher_is_known=True)
    return dataclasses.replace(prepared, teacher=teacher, teacher_is_trained=True, distilling=distilling)


def _distilling(recipe: Recipe, task: Task, teacher: Loaded, stand_ins: StandIns, precision: Precision,
                rows: EncodedSplit, teacher_is_known: bool) -> Distilling:
    """Student, plan and cache. The teacher is known if it is what will teach, and nothing is to train it first."""
    if compares_attention(recipe.distillation):
        give_attention_maps(teacher.model)
    student, origin, dropouts = make_student(recipe, task, teacher, stand_ins)
    with seeded(recipe.training.seed):  # the same seed gives the same projections
        objective = distillation_objective(recipe.distillation, teacher.model.config, student.config)
    source = LiveTeacher(teacher.model, ModuleOutputs(task.adaptor()), precision.autocast_dtype)
    plan = Distillation(student, ModuleOutputs(task.adaptor()), source, objective)
    cache = plan_cache(recipe.cache, recipe.cache_dtype, precision.autocast_dtype,
                       source.fingerprint if teacher_is_known else None, plan.needs()["default"].teacher, source.width,
                       rows.mean_length, len(rows))
    return Distilling(student, origin, dropouts, _starting_point(recipe.student, teacher.model), plan, cache)


def _starting_point(section: StudentSection, teacher: PreTrainedModel) -> str:
    if section.model is not None:
        return section.model
    return "scratch" if plan_student(teacher.config, student_spec(section)).from_scratch else "the teacher's layers"


def data_spec(recipe: Recipe) -> DataSpec:
    """The task's own description of the data."""
    return DataSpec(**{name: getattr(recipe.data, name) for name in type(recipe.data).model_fields})


def load_teacher(recipe: Recipe, task: Task, stand_ins: StandIns) -> Loaded:
    """The teacher before any fine-tuning. Raises `PlanError` for one that was never trained and is not to be."""
    path, train = str(recipe.teacher.model), recipe.teacher.train
    if path in stand_ins:
        return _fitting(stand_ins[path], path, "teacher.model", task)
    with seeded(train.seed if train else 0), about("teacher.model"):
        model = task.load_model(path)
    if train is None and type(model).__name__ not in (model.config.architectures or ()):
        raise PlanError(f"teacher.model {path!r} has no trained head for {recipe.task} (it holds "
                        f"{', '.join(model.config.architectures or ['an unnamed model'])}), so it cannot teach yet; "
                        "add train: {epochs: 3, learning_rate: 5e-5} to the teacher, or give a fine-tuned model")
    with about("teacher.model"):
        tokenizer = task.load_tokenizer(path)
    require_embeddings(model, tokenizer, f"teacher.model {path!r}")
    return Loaded(model, tokenizer)


def make_student(recipe: Recipe, task: Task, teacher: Loaded, stand_ins: StandIns) -> NewStudent:
    """The untrained student, whether a teacher will train it or not. The same seed gives the same weights.

    If the recipe compares attention maps, it gives them and has no dropout on them.
    """
    model, origin = _made_or_loaded(recipe, task, teacher, stand_ins)
    if not compares_attention(recipe.distillation):
        return NewStudent(model, origin, {})
    model, dropouts = trained_on_attention_maps(model)
    return NewStudent(model, origin + (", attention dropout off" if dropouts else ""), dropouts)


def _made_or_loaded(recipe: Recipe, task: Task, teacher: Loaded, stand_ins: StandIns) -> tuple[PreTrainedModel, str]:
    section, seed, teacher_path = recipe.student, recipe.training.seed, str(recipe.teacher.model)
    if section.model is None:
        spec = student_spec(section)
        shape = plan_student(teacher.model.config, spec)
        with about("student"):
            require_fit("made from the teacher", shape.config, None, task.spec.max_length)
        return build_student(teacher.model, spec, seed=seed), shape.description
    if section.model in stand_ins:
        earlier = _fitting(stand_ins[section.model], section.model, "student.model", task)
        require_same_vocabulary(teacher.tokenizer, earlier.tokenizer, teacher_path, section.model)
        return earlier.model, f"the student of an earlier stage, {section.model}"
    with seeded(seed), about("student.model"):
        model = task.load_model(section.model)
        own_tokenizer = task.load_tokenizer(section.model)
    require_same_vocabulary(teacher.tokenizer, own_tokenizer, teacher_path, section.model)
    require_embeddings(model, teacher.tokenizer, f"student.model {section.model!r}")
    return model, f"loaded from {section.model}"


def student_spec(section: StudentSection) -> StudentSpec:
    """The description of a student made from the teacher."""
    return StudentSpec(shape=section.shape, layers=section.layers, keep=section.keep, config=section.config)


def _fitting(stand_in: Loaded, path: str, key: str, task: Task) -> Loaded:
    """The stand-in, if what it stands for could be loaded for this stage's data."""
    with about(key):
        require_fit(path, stand_in.model.config, task.label_names, task.spec.max_length)
    return stand_in


@contextmanager
def about(key: str) -> Iterator[None]:
    """Errors inside say which key of the recipe they are about."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"{key}: {error}") from error


def supervised_plan(task: Task, model: PreTrainedModel) -> Distillation:
    """Training on the labels alone."""
    return Distillation(model, task.adaptor(), NoTeacher(), supervised_objective())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All global generators seeded inside, and as before afterwards."""
    with untouched():
        seed_everything(seed)
        yield
