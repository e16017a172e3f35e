"""A teacher for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from stillhouse.errors import PlanError
from stillhouse.teachers.base import TeacherSource
from stillhouse.types import Batch, Features, Key


@final
class RoutedTeacher(TeacherSource):
    """Asks the teacher of the batch's task.

    Args:
        by_task: a source for each task name.
    """

    def __init__(self, by_task: Mapping[str, TeacherSource]) -> None:
        if not by_task:
            raise PlanError("a routed teacher needs at least one task")
        self.by_task = dict(by_task)

    @property
    def fingerprint(self) -> str | None:
        parts = {task: source.fingerprint for task, source in sorted(self.by_task.items())}
        return None if None in parts.values() else f"routed({parts})"

    @property
    def rows_forwarded(self) -> int:
        return sum(source.rows_forwarded for source in self.by_task.values())

    def check(self, keys: frozenset[Key]) -> None:
        for source in self.by_task.values():
            source.check(keys)

    def for_task(self, task: str) -> TeacherSource:
        if task not in self.by_task:
            raise PlanError(f"no teacher for task {task!r}; there are teachers for {', '.join(sorted(self.by_task))}")
        return self.by_task[task]

    def map_leaves(self, wrap: Callable[[TeacherSource], TeacherSource]) -> TeacherSource:
        return RoutedTeacher({task: source.map_leaves(wrap) for task, source in self.by_task.items()})

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        return self.for_task(batch.task).signals(batch, keys, extra)

    def flush(self) -> None:
        for source in self.by_task.values():
            source.flush()

    def lookup(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features | None:
        return self.for_task(batch.task).lookup(batch, keys, extra)
