"""No teacher: plain supervised training as a special case of distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from stillhouse.errors import PlanError
from stillhouse.teachers.base import TeacherSource
from stillhouse.types import Batch, Features, Key


@final
class NoTeacher(TeacherSource):
    """Answers nothing, and refuses every objective that asks."""

    @property
    def fingerprint(self) -> str:
        return "none"

    def check(self, keys: frozenset[Key]) -> None:
        if keys:
            names = ", ".join(sorted(map(str, keys)))
            raise PlanError(f"the objective needs {names} of a teacher, and there is none; "
                            "give a teacher, or train with hard labels alone")

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        return {}
