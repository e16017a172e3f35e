"""Layers of a teacher: which ones a student starts from, where they are, and copying them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stillhouse.adaptors.layers import layer_lists
from stillhouse.errors import PlanError
from stillhouse.students.shapes import OWN_MODEL


def first(depth: int, count: int) -> tuple[int, ...]:
    """The first ``count`` layers of ``depth``."""
    return tuple(range(min(count, depth)))


def spread(depth: int, count: int) -> tuple[int, ...]:
    """``count`` layers of ``depth``, evenly spread from the first one on: 3 of 12 are 0, 4, 8."""
    return tuple(i * depth // count for i in range(count))


def every_second(depth: int) -> tuple[int, ...]:
    """Layers 0, 2, 4, ...: half of them, rounded up."""
    return tuple(range(0, depth, 2))


START_OF_NAMED_SHAPES = first
"""Which teacher layers T6 and T3 start from.

The lowest ones, which is the advice of the paper's authors: they turn the embeddings, which are copied too, into
what the layers above expect; the student's top is trained to match the teacher's anyway. `spread` fits here too.
"""


def chosen(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """The layer numbers asked for, counted from 0; negative ones count from the end.

    Raises `PlanError` if one does not exist, or if they are not in increasing order without repetition.
    """
    if not layers:
        raise PlanError(f"no layers are kept: name at least one of the teacher's {depth}, as in layers: [0]")
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool) or not -depth <= layer < depth:
            raise PlanError(f"layer {layer!r} does not exist: the teacher has {depth} layers, "
                            f"0 to {depth - 1} (or {-depth} to -1 from the end)")
    resolved = tuple(layer % depth for layer in layers)
    if list(resolved) != sorted(set(resolved)):
        raise PlanError(f"layers {list(layers)} of the teacher's {depth} are not in increasing order without "
                        f"repetition: write {sorted(set(resolved))}")
    return resolved


def layer_list(model: nn.Module, depth: int) -> str:
    """The dotted name of the module list that holds the model's ``depth`` layers.

    Raises `PlanError` if there is not exactly one (see `layer_lists`).
    """
    found = layer_lists(model, depth)
    if len(found) != 1:
        seen = f"{len(found)} lists ({', '.join(found)})" if found else "no list"
        raise PlanError(f"cannot tell the layers of a {type(model).__name__}: {seen} of {depth} modules found in it; "
                        f"{OWN_MODEL}")
    return found[0]


def copy_weights(teacher: nn.Module, student: nn.Module, layers: Sequence[int], depth: int) -> None:
    """Overwrite the student's weights by the teacher's: its chosen ``layers`` and all that is not in a layer.

    Raises `PlanError` if the two do not fit, for instance because a layer is built differently by its position.
    """
    prefix = layer_list(teacher, depth) + "."
    new_number = {old: new for new, old in enumerate(layers)}
    weights: dict[str, Tensor] = {}
    for name, value in teacher.state_dict().items():
        if not name.startswith(prefix):
            weights[name] = value
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if int(number) in new_number:
            weights[f"{prefix}{new_number[int(number)]}.{rest}"] = value
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"the layers {list(layers)} of a {type(teacher).__name__} cannot be moved to the places "
                        f"0 to {len(layers) - 1}: choose other layers, or {OWN_MODEL}. {reason}") from error
