"""What is learned, as an objective, however it was said."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from stillhouse.adaptors import Adaptor, FunctionAdaptor
from stillhouse.config import DistillationConfig
from stillhouse.errors import PlanError
from stillhouse.objective import Objective, Term
from stillhouse.recipe.distillation_schema import DistillationSection
from stillhouse.recipe.objectives import distillation_objective
from stillhouse.schedules import is_always_zero
from stillhouse.tasks import TASKS, Task
from stillhouse.terms import HARD_LABEL_TERM, Matches, logits_terms
from stillhouse.types import module_path

Said = Objective | DistillationConfig | Mapping[str, Any]
"""An objective; the paper's configuration; or the section ``distillation`` of a recipe."""


class Learned(NamedTuple):
    """An objective, and the optimizer groups of those of its parameters for which options were given."""

    objective: Objective
    parameter_groups: Sequence[Mapping[str, Any]] = ()

    @property
    def by_module(self) -> bool:
        """Whether a loss names a module of the models by its path."""
        needs = self.objective.needs()
        return any(module_path(key) is not None for key in needs.student | needs.teacher)


def learned(said: Said, student: nn.Module, adaptor: Adaptor | None, teachers: Sequence[nn.Module]) -> Learned:
    """The objective, with projections in the type of the student's weights.

    An automatic adaptor gives no loss of the model's own, so with one (or with None) the hard labels of a
    `DistillationConfig` mean the usual loss of the student's task. Raises `PlanError` and `ConfigError`.
    """
    if isinstance(said, Objective):
        return Learned(said)
    if isinstance(said, DistillationConfig):
        matches = Matches(said, student)
        own_loss = isinstance(adaptor, FunctionAdaptor)
        terms = logits_terms(said, optional=bool(matches.terms))
        return Learned(Objective([*(terms if own_loss else _with_usual_hard_loss(terms, student)), *matches.terms]),
                       matches.parameter_groups)
    if not isinstance(said, Mapping):
        raise PlanError(f"distillation is a {type(said).__name__}; give a DistillationConfig, an Objective, or a "
                        "dictionary like the section distillation of a recipe, such as {'temperature': 4}")
    section = DistillationSection.of(**said)
    teacher_config = next((model.config for model in teachers), None)
    objective = distillation_objective(section, task_like(student), teacher_config, student.config, sys.maxsize)
    dtype = next((p.dtype for p in student.parameters() if p.is_floating_point()), None)
    for parameter in objective.parameters():
        parameter.data = parameter.data.to(dtype)
    return Learned(objective)


def task_like(student: nn.Module) -> Task[Any]:
    """The task that a model's head is for, without data. Raises `PlanError` if its class or labels tell none."""
    name, config = type(student).__name__, getattr(student, "config", None)
    found = next((task for task in TASKS.values() if task.signal == "logits" and name.endswith(task.head)), None)
    if found is None:
        heads = ", ".join(task.head for task in TASKS.values() if task.signal == "logits")
        raise PlanError(f"{name} does not tell its task (known heads: {heads}), so what its labels mean is unknown; "
                        "give an Objective as distillation, and an adaptor")
    labels = {} if found.name != "text-classification" else {"labels": _kind_of_labels(config)}
    return found(found.data.of(train=name, **labels))


def _kind_of_labels(config: Any) -> str:
    """As transformers decides where ``problem_type`` is not set, but that several labels a row have to be told."""
    kinds = {"regression": "regression", "multi_label_classification": "multi"}
    usual = "regression" if config.num_labels == 1 else "single"
    return usual if config.problem_type is None else kinds.get(config.problem_type, "single")


def _with_usual_hard_loss(terms: Sequence[Term], student: nn.Module) -> list[Term]:
    changed = []
    for term in terms:
        if term.name == HARD_LABEL_TERM:
            if is_always_zero(term.weight):
                continue
            task = task_like(student)
            term = dataclasses.replace(term, loss=task.hard_loss(), optional=False, all_heads=task.num_heads > 1)
        changed.append(term)
    return changed
