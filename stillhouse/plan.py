"""The whole experiment as one value, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from stillhouse.adaptors import Adaptor
from stillhouse.errors import PlanError
from stillhouse.needs import Needs
from stillhouse.objective import Objective, TaskObjective
from stillhouse.teachers import TeacherSource
from stillhouse.types import Key


@dataclass(frozen=True, eq=False)
class Distillation:
    """A student, its adaptor (one, or one for each task), a teacher source and an objective.

    Raises `PlanError` when made of parts that cannot work together: tensors that a side cannot give, widths or label
    counts that differ, tasks without an adaptor. What only outputs can tell is checked at the first micro-batch.
    """

    student: nn.Module
    adaptor: Adaptor | Mapping[str, Adaptor]
    teacher: TeacherSource
    objective: Objective | TaskObjective

    def __post_init__(self) -> None:
        for task, objective in self.objective.tasks():
            if not objective.may_train():
                place = "" if task == "default" else f" of task {task!r}"
                raise PlanError(f"all weights{place} are 0, so there is nothing to learn from; raise one, such as "
                                "kd_loss_weight, hard_label_weight or the weight of a match")
            needs, adaptor, teacher = objective.needs(), self.adaptor_for(task), self.teacher.for_task(task)
            teacher.check(needs.teacher)
            adaptor.check(self.student, needs.student, is_trained=True)

            def student_width(key: Key, adaptor: Adaptor = adaptor) -> int | None:
                return adaptor.width(self.student, key)

            objective.check(student_width, teacher.width)

    def adaptor_for(self, task: str) -> Adaptor:
        """The student's adaptor for a task. Raises `PlanError` if there is none."""
        if isinstance(self.adaptor, Adaptor):
            return self.adaptor
        if task not in self.adaptor:
            raise PlanError(f"no student adaptor for task {task!r}; there are {', '.join(self.adaptor)}")
        return self.adaptor[task]

    @property
    def declares_masks(self) -> bool:
        """Whether every count can be known before any forward."""
        return all(self.adaptor_for(task).declares_masks for task, _ in self.objective.tasks())

    def needs(self) -> dict[str, Needs]:
        """What is ever needed, by task."""
        return {task: objective.needs() for task, objective in self.objective.tasks()}
