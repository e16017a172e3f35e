"""Whether a model is right as often as it says: expected calibration error and the reliability plot behind it.

Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, with bins of equal width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.report.answers import Choice

NUM_BINS = 15


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence is above ``low`` and at most ``high``; the means are 0 of an empty bin."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How confidence and being right go together, over all answers."""

    count: int
    confidence: float
    """The mean confidence."""
    accuracy: float
    ece: float
    """The mean, over answers, of how far confidence and accuracy differ in their bin, 0 to 1."""
    bins: tuple[Bin, ...]


def calibration(confidences: Sequence[float], rights: Sequence[bool], num_bins: int = NUM_BINS) -> Calibration:
    """Sort N confidences (0 to 1) into bins ``(k / n, (k + 1) / n]``; a confidence of 0 is in the first.

    Raises `ValueError` for no answers, or not as many of both.
    """
    if not confidences or len(confidences) != len(rights):
        raise ValueError(f"{len(confidences)} confidences and {len(rights)} answers: give as many, at least one")
    inside: list[list[int]] = [[] for _ in range(num_bins)]
    for i, confidence in enumerate(confidences):
        inside[min(max(math.ceil(confidence * num_bins) - 1, 0), num_bins - 1)].append(i)
    bins = tuple(
        Bin(k / num_bins, (k + 1) / num_bins, len(rows), _mean([confidences[i] for i in rows]),
            _mean([float(rights[i]) for i in rows]))
        for k, rows in enumerate(inside))
    count = len(confidences)
    return Calibration(
        count, _mean(confidences), _mean([float(right) for right in rights]),
        sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / count, bins)


def student_calibration(choices: Sequence[Choice]) -> Calibration | None:
    """Of the student, over choices whose right one is known; None if there are none."""
    judged = [one for one in choices if _is_judged(one)]
    return calibration([one.student_confidence for one in judged],
                       [one.student == one.gold for one in judged]) if judged else None


def teacher_calibration(choices: Sequence[Choice]) -> Calibration | None:
    """Of the teacher, over those of the student's that it made too; None if there are none."""
    judged = [(one, one.teacher_confidence) for one in choices if _is_judged(one) and one.teacher_confidence]
    return calibration([sure for _, sure in judged],
                       [one.teacher == one.gold for one, _ in judged]) if judged else None


def _is_judged(one: Choice) -> bool:
    return one.gold is not None and one.student_confidence > 0  # 0: a word that is not seen


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
