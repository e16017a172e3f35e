"""What a teacher source is: one narrow call, whatever stands behind it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

from stillhouse.types import Batch, Features, Key


class TeacherSource(abc.ABC):
    """Answers what the teacher says about a batch. Abstract.

    Contract:

    * ``signals`` returns at least the keys asked for, as tensors without a graph, row by row in the batch's order. A
      row's answer does not depend on the rows beside it. ``Key("logits")`` asks for every logits head.
    * Nothing the source owns is trained, and it leaves no trace: modes, gradients and weights are as before.
    * ``check`` raises `PlanError` for keys that it can never give, before any data is touched.
    * ``fingerprint`` names what would be answered: equal fingerprints, equal answers. It is None if no name holds
      across processes.
    """

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str | None:
        """The identity of the answers."""

    @abc.abstractmethod
    def check(self, keys: frozenset[Key]) -> None:
        """Raise `PlanError` for a key that this source can never give."""

    @abc.abstractmethod
    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        """The tensors for ``keys``; ``extra`` are additional keyword arguments of the model's forward."""

    def lookup(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features | None:
        """What `signals` would give, if it can be had without running a model; else None."""
        return None

    def flush(self) -> None:  # noqa: B027 - optional by design
        """Return when all that was learned of answers is kept; called before a checkpoint, and after each epoch."""

    def width(self, key: Key) -> int | None:
        """What the student's tensor must have in common (see `Adaptor.width`); None if only an answer can tell."""
        return None

    def for_task(self, task: str) -> TeacherSource:
        """The source that answers for a task: itself, for any. Raises `PlanError` if there is none."""
        return self

    def map_leaves(self, wrap: Callable[[TeacherSource], TeacherSource]) -> TeacherSource:
        """The same source with each elementary source inside it wrapped. An elementary source is wrapped itself."""
        return wrap(self)

    @property
    def rows_forwarded(self) -> int:
        """How many rows a model behind this source has been run on since it was made."""
        return 0
