"""Intermediate matches by name, or for a layer map, as the settings of a configuration.

The names and their pairs are those of the paper's experiments, all for teachers of 12 layers and width 768.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from stillhouse.errors import ConfigError, unknown_name
from stillhouse.layer_maps import LayerPair, resolve, uniform
from stillhouse.presets import match_kind

__all__ = ["MATCH_SETS", "MatchSet", "match_layers", "named_matches"]

_TEACHER_DEPTH, _TEACHER_WIDTH = 12, 768
_ATTENTION_LOSSES = ("mse", "ce", "mse_sum", "ce_mean")


class MatchSet(NamedTuple):
    """One loss at several pairs of layers. ``student_width`` asks for a linear projection from it to the teacher's."""

    loss: str
    pairs: tuple[LayerPair, ...]
    student_width: int | None = None


def _sets() -> dict[str, MatchSet]:
    depth3, depth4, depth6 = (uniform(_TEACHER_DEPTH, depth) for depth in (3, 4, 6))
    small = tuple(LayerPair(layer, layer) for layer in range(0, _TEACHER_DEPTH + 1, 2))
    attention = {
        f"{name}_attention_{loss}": MatchSet(f"attention_{loss}", pairs[1:])
        for name, pairs in (("L3", depth3), ("L4", depth4)) for loss in _ATTENTION_LOSSES
    }
    return {
        "L3_hidden_mse": MatchSet("hidden_mse", depth3),
        "L3n_hidden_mse": MatchSet("hidden_mse", depth3, 384),
        "L3l_hidden_mse": MatchSet("hidden_mse", depth3, 1024),
        "L3_hidden_smmd": MatchSet("mmd", depth3),
        "L4t_hidden_mse": MatchSet("hidden_mse", depth4, 312),
        "L4_hidden_smmd": MatchSet("mmd", depth4),
        "L4t_hidden_sgram": MatchSet("gram", depth4, 312),
        "L6_hidden_mse": MatchSet("hidden_mse", depth6),
        "L6_hidden_smmd": MatchSet("mmd", depth6),
        "small_hidden_mse": MatchSet("hidden_mse", small, 256),
        "small_hidden_smmd": MatchSet("mmd", small),
        **attention,
    }


MATCH_SETS = _sets()


def named_matches(name: str) -> list[dict[str, Any]]:
    """The settings of each `IntermediateMatch` of a named set. Raises `ConfigError` for an unknown name."""
    if name not in MATCH_SETS:
        raise ConfigError(unknown_name("set of matches", name, MATCH_SETS))
    loss, pairs, width = MATCH_SETS[name]
    proj = None if width is None else ["linear", width, _TEACHER_WIDTH]
    return [_settings(pair, loss, 1.0, proj) for pair in pairs]


def match_layers(
    layers: str | Iterable[Sequence[int]],
    loss: str,
    *,
    teacher_depth: int,
    student_depth: int,
    weight: float = 1.0,
    proj: list[Any] | None = None,
) -> list[dict[str, Any]]:
    """Settings of an `IntermediateMatch` for each pair of a layer map, for a `DistillationConfig`.

    Args:
        layers: ``uniform``, ``first``, ``last``, or pairs ``[teacher layer, student layer]``; negative numbers count
            from the top. Layer n is hidden state n and attention map n - 1, which is what it becomes here; the
            embeddings, layer 0, have no attention map, and a named map leaves them out.
        loss: a name in ``MATCH_LOSS_MAP``; a loss between two layers a side gets the same layer twice.
        teacher_depth: the teacher's number of layers, embeddings not counted.
        student_depth: the student's.
        weight: of each match.
        proj: as in `IntermediateMatch`.

    A loss between any number of layers (emd) takes all of both sides, in one match, whichever map is named. Raises
    `PlanError` for a map or layers that do not exist, `ConfigError` for an unknown loss and for pairs that emd would
    not keep to.

    >>> [(m["layer_T"], m["layer_S"]) for m in match_layers("uniform", "hidden_mse", teacher_depth=6, student_depth=2)]
    [(0, 0), (3, 1), (6, 2)]
    """
    kind = match_kind(loss)
    if kind is not None and kind.num_layers is None:
        _require_named_map(layers, loss, teacher_depth, student_depth)
        layers_T, layers_S = list(range(teacher_depth + 1)), list(range(student_depth + 1))
        return [{"layer_T": layers_T, "layer_S": layers_S, "feature": "hidden", "loss": loss, "weight": weight,
                 "proj": proj}]
    pairs = layer_pairs(layers, loss, teacher_depth=teacher_depth, student_depth=student_depth)
    return [_settings(pair, loss, weight, proj) for pair in pairs]


def layer_pairs(layers: str | Iterable[Sequence[int]], loss: str, *, teacher_depth: int,
                student_depth: int) -> tuple[LayerPair, ...]:
    """The pairs of a layer map that a loss can compare: a named map without the embeddings, for attention maps.

    Raises `ConfigError` if embeddings are given by number for attention maps, and what `resolve` raises.
    """
    pairs = resolve(layers, teacher_depth=teacher_depth, student_depth=student_depth)
    kind = match_kind(loss)
    if kind is None or kind.reads != "attention":
        return pairs
    if not isinstance(layers, str) and any(0 in pair for pair in pairs):
        raise ConfigError(f"{loss}: layer 0 is the embeddings, which have no attention map; layers count from 1")
    return tuple(pair for pair in pairs if 0 not in pair)


def _require_named_map(layers: str | Iterable[Sequence[int]], loss: str, teacher_depth: int,
                       student_depth: int) -> None:
    if not isinstance(layers, str):
        raise ConfigError(f"{loss} takes all layers and finds the pairs itself; write 'uniform' instead of pairs, or "
                          "the layers of each side as layer_T and layer_S of a match of your own")
    resolve(layers, teacher_depth=teacher_depth, student_depth=student_depth)


def _settings(pair: LayerPair, loss: str, weight: float, proj: list[Any] | None) -> dict[str, Any]:
    kind = match_kind(loss)
    is_attention = kind is not None and kind.reads == "attention"
    repeated = kind.num_layers if kind is not None and kind.num_layers else 1
    teacher, student = (layer - 1 if is_attention else layer for layer in pair)
    return {
        "layer_T": [teacher] * repeated if repeated > 1 else teacher,
        "layer_S": [student] * repeated if repeated > 1 else student,
        "feature": "attention" if is_attention else "hidden",
        "loss": loss, "weight": weight, "proj": None if proj is None else list(proj),
    }
