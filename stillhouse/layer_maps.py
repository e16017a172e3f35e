"""Which layer of the teacher each layer of the student learns from.

Layer numbers are those of hidden states: 0 is the embedding output, n the output of the n-th layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from stillhouse.errors import PlanError, unknown_name


class LayerPair(NamedTuple):
    """A layer of the teacher and the layer of the student that learns from it."""

    teacher: int
    student: int


def uniform(teacher_depth: int, student_depth: int) -> tuple[LayerPair, ...]:
    """Evenly spread, embeddings and last layers included; halves are rounded up. Raises `PlanError` for a depth of 0.

    >>> [tuple(pair) for pair in uniform(12, 3)]
    [(0, 0), (4, 1), (8, 2), (12, 3)]
    """
    _require_layers(teacher_depth, student_depth)
    return tuple(
        LayerPair((2 * i * teacher_depth + student_depth) // (2 * student_depth), i) for i in range(student_depth + 1)
    )


def first(teacher_depth: int, student_depth: int) -> tuple[LayerPair, ...]:
    """Each layer with the teacher's of the same number."""
    _require_no_deeper("first", teacher_depth, student_depth)
    return tuple(LayerPair(i, i) for i in range(student_depth + 1))


def last(teacher_depth: int, student_depth: int) -> tuple[LayerPair, ...]:
    """Embeddings with embeddings, then each layer with the teacher's, counted from the top."""
    _require_no_deeper("last", teacher_depth, student_depth)
    offset = teacher_depth - student_depth
    return (LayerPair(0, 0), *(LayerPair(offset + i, i) for i in range(1, student_depth + 1)))


LAYER_MAPS: dict[str, Callable[[int, int], tuple[LayerPair, ...]]] = {"uniform": uniform, "first": first, "last": last}


def resolve(
    layers: str | Iterable[Sequence[int]], *, teacher_depth: int, student_depth: int
) -> tuple[LayerPair, ...]:
    """The pairs behind a name or a list of ``[teacher, student]`` (negative numbers count from the top).

    Raises `PlanError` for an unknown name, a layer that does not exist and, with a name, a depth of 0.
    """
    if isinstance(layers, str):
        if layers not in LAYER_MAPS:
            raise PlanError(unknown_name("layer map", layers, LAYER_MAPS) + "; or a list of [teacher, student] pairs")
        return LAYER_MAPS[layers](teacher_depth, student_depth)
    pairs = []
    for pair in layers:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise PlanError(f"layer pair {pair!r}: write [teacher layer, student layer]")
        pairs.append(
            LayerPair(_existing(pair[0], teacher_depth, "teacher"), _existing(pair[1], student_depth, "student"))
        )
    return tuple(pairs)


def _existing(layer: int, depth: int, side: str) -> int:
    resolved = layer + depth + 1 if layer < 0 else layer
    if not 0 <= resolved <= depth:
        raise PlanError(
            f"the {side} has no layer {layer}: it has {depth} layers, numbered 1 to {depth}, and 0 for the embeddings"
        )
    return resolved


def _require_layers(teacher_depth: int, student_depth: int) -> None:
    for side, depth in (("teacher", teacher_depth), ("student", student_depth)):
        if depth < 1:
            raise PlanError(f"{side}_depth={depth}: a layer map needs a {side} with at least 1 layer, embeddings not "
                            "counted; give the number of its layers")


def _require_no_deeper(name: str, teacher_depth: int, student_depth: int) -> None:
    _require_layers(teacher_depth, student_depth)
    if student_depth > teacher_depth:
        raise PlanError(
            f"layer map {name!r} needs a student no deeper than the teacher "
            f"({student_depth} and {teacher_depth} layers); use 'uniform' or explicit pairs"
        )
