"""The floating-point operations of a step, from the shapes of its matrix products; a multiply and an add are two."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.setting import Setting, Shape

_BACKWARD = 2  # the gradients of both factors of each product


def forward(shape: Shape, rows: int, length: int) -> int:
    """A BERT classifier with two labels on ``rows`` rows of ``length`` tokens, padding included."""
    width, tokens = shape.width, rows * length
    projections = 2 * tokens * (4 * width**2 + 2 * width * shape.intermediate)
    attention = 2 * 2 * tokens * length * width
    return shape.layers * (projections + attention) + 2 * rows * (width**2 + 2 * width)


def losses(setting: Setting, rows: int, length: int, *, backward: bool = True) -> int:
    """Projections to the teacher's width, where widths differ, and the token products of NST, at all pairs of layers.

    With ``backward``, that of the student's side is counted too; the teacher's side has none.
    """
    mine, theirs = setting.student.width, setting.teacher.width
    times = 1 + _BACKWARD if backward else 1
    projection = 2 * rows * length * mine * theirs if mine != theirs else 0
    gram = 2 * rows * length * length
    return len(setting.pairs) * (times * (projection + gram * mine) + gram * theirs)


def step(setting: Setting, rows: int, length: int, *, asks_teacher: bool) -> int:
    """One training step; without asking the teacher, its answers are there already."""
    student = (1 + _BACKWARD) * forward(setting.student, rows, length) + losses(setting, rows, length)
    return student + (forward(setting.teacher, rows, length) if asks_teacher else 0)


def mean_step(setting: Setting, shapes: Sequence[tuple[int, int]], *, asks_teacher: bool) -> float:
    """The mean over batches of (rows, length)."""
    return sum(step(setting, *shape, asks_teacher=asks_teacher) for shape in shapes) / len(shapes)
