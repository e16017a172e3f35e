"""A model's answers to one split, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stillhouse.errors import OutputError


@final
@dataclass(frozen=True, eq=False)
class Judgement:
    """A model's answers to one split, in the order of its rows, and how good they are."""

    metrics: dict[str, float]
    answers: np.ndarray[Any, Any]
    """One answer or more a row: whole numbers or texts for choices, floating-point numbers for a score."""

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
