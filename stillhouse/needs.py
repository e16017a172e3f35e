"""What is wanted of the student and of the teacher, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stillhouse.types import Key


@dataclass(frozen=True)
class Needs:
    """The tensors that a loss, or a whole objective, reads from each side."""

    student: frozenset[Key] = frozenset()
    teacher: frozenset[Key] = frozenset()

    @classmethod
    def of(cls, student: Iterable[Key] = (), teacher: Iterable[Key] = ()) -> Needs:
        """Build from any iterables of keys."""
        return cls(frozenset(student), frozenset(teacher))

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.student | other.student, self.teacher | other.teacher)

    def describe(self) -> str:
        """One line for people: ``teacher: hidden[0], logits[0]; student: ...``."""
        def names(keys: frozenset[Key]) -> str:
            return ", ".join(sorted(map(str, keys))) or "nothing"

        return f"teacher: {names(self.teacher)}; student: {names(self.student)}"


def indices(keys: Iterable[Key], kind: str) -> tuple[int, ...]:
    """The sorted layer numbers (or heads) asked for under one kind."""
    return tuple(sorted(k.index for k in keys if k.kind == kind and isinstance(k.index, int)))
