"""A model's answers to one split, what they say of each example, and how good they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from stillhouse.errors import OutputError
from stillhouse.tasks.said import Said


@final
@dataclass(frozen=True, eq=False)
class Judgement:
    """A model's answers to one split, in the order of its rows, how good they are, and what they say in words.

    Metrics and words are worked out when they are first asked for, so that an evaluation during training has no use for
    words, and a prediction none for labels.

    Args:
        measure: gives the metrics, from 0 to 1 where a metric has such bounds. Raises `DataError` or `OutputError`
            where nobody knows what is right.
        answers: one answer or more a row: whole numbers or texts for choices, floating-point numbers for a score.
        say: gives what was said of each example, in order. Raises `PlanError` in a task that has no words for it.
    """

    measure: Callable[[], dict[str, float]]
    answers: np.ndarray[Any, Any]
    say: Callable[[], list[Said]]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """How good the answers are, by metric. Raises what ``measure`` raises."""
        return self.measure()

    @cached_property
    def said(self) -> list[Said]:
        """What the answers are, example by example, as plain values that JSON can hold. Raises what ``say`` raises."""
        return self.say()

    def agreement(self, other: Judgement) -> float:
        """How far two models answer alike, whatever is right: the share of equal answers, or the scores' correlation.

        Raises `OutputError` if they did not answer the same questions.
        """
        if self.answers.shape != other.answers.shape or not self.answers.size:
            raise OutputError(f"answers of {self.answers.shape} and {other.answers.shape} cannot be compared")
        if not np.issubdtype(self.answers.dtype, np.floating):
            return float((self.answers == other.answers).mean())
        ours, theirs = self.answers.ravel(), other.answers.ravel()
        constant = ours.std() == 0 or theirs.std() == 0
        return float(np.array_equal(ours, theirs)) if constant else float(np.corrcoef(ours, theirs)[0, 1])
