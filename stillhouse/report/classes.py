"""Precision, recall and F1 of each class, for one label a row and for several."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassScore:
    """How well a class is found, 0 to 1; a score without anything to divide by is 0. ``count``: of the gold labels."""

    name: str
    count: int
    precision: float
    recall: float
    f1: float


def class_score(name: str, found: int, said: int, wanted: int) -> ClassScore:
    """From counts: rightly said, said at all, and there to be found."""
    return ClassScore(name, wanted, found / said if said else 0.0, found / wanted if wanted else 0.0,
                      2 * found / (said + wanted) if said + wanted else 0.0)


def class_scores(gold: Sequence[Collection[str]], said: Sequence[Collection[str]],
                 names: Sequence[str]) -> list[ClassScore]:
    """A score for each name; ``gold`` and ``said`` hold the labels of each of N rows, one or any number."""
    rows = [(set(wanted), set(answer)) for wanted, answer in zip(gold, said, strict=True)]
    return [
        class_score(name, sum(name in wanted and name in answer for wanted, answer in rows),
                    sum(name in answer for _, answer in rows), sum(name in wanted for wanted, _ in rows))
        for name in names]
