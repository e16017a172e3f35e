"""Shapes: the named ones of the paper, and how a shape is put into a model's configuration.

The paper's sizes are for teachers of width 768. Here the depth of a named shape is absolute, and the narrow shapes
keep the paper's *ratio* of width: T4-tiny is 4 x 312 / 768 of the teacher's width. Widths are rounded up to a multiple
of 32 so that heads of 32 or 64 fit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig

from stillhouse.errors import PlanError, unknown_name

_PAPER_WIDTH = 768
_MULTIPLE = 32

DEPTH = "num_hidden_layers"
WIDTH = "hidden_size"
HEADS = "num_attention_heads"
INTERMEDIATE = "intermediate_size"
SIZES = (DEPTH, WIDTH, HEADS, INTERMEDIATE)

OWN_MODEL = "give a model of your own as {model: PATH} instead"

_OTHER_NAMES = {INTERMEDIATE: ("hidden_dim",)}  # what families call a size without saying so in attribute_map
_PER_LAYER = ("layer_types",)  # fields that hold one value a layer
_LABELS = frozenset({"num_labels", "id2label", "label2id", "problem_type"})
_CLASS = frozenset({"model_type", "architectures", "is_encoder_decoder", "is_decoder", "add_cross_attention"})


@dataclass(frozen=True)
class Shape:
    """A named shape. Without a width it keeps the teacher's width and starts from the teacher's layers."""

    depth: int
    width: int | None = None  # for a teacher of width 768
    intermediate: int | None = None  # for a teacher of width 768
    may_be_deeper: bool = False  # than the teacher

    def sizes(self, teacher_width: int) -> dict[str, int]:
        """The configuration's sizes beside a teacher of that width, by their usual names."""
        if self.width is None or self.intermediate is None:
            return {DEPTH: self.depth}
        width = _scaled(self.width, teacher_width)
        head = 64 if width % 64 == 0 and width >= 256 else 32
        return {DEPTH: self.depth, WIDTH: width, HEADS: width // head,
                INTERMEDIATE: _scaled(self.intermediate, teacher_width)}


SHAPES: Mapping[str, Shape] = {
    "T6": Shape(6),
    "T3": Shape(3),
    "T3-small": Shape(3, 384, 1536),
    "T4-tiny": Shape(4, 312, 1200),
    "T12-nano": Shape(12, 256, 1024, may_be_deeper=True),
}


def known_shapes() -> tuple[str, ...]:
    """The names that ``{shape: NAME}`` takes."""
    return tuple(SHAPES)


def named_shape(name: str, teacher_depth: int) -> Shape:
    """The shape of that name. Raises `PlanError` if there is none or it is deeper than the teacher."""
    if name not in SHAPES:
        raise PlanError(unknown_name("shape", name, SHAPES))
    shape = SHAPES[name]
    if shape.depth > teacher_depth and not shape.may_be_deeper:
        fitting = [n for n, s in SHAPES.items() if s.depth <= teacher_depth or s.may_be_deeper]
        raise PlanError(f"shape {name} has {shape.depth} layers, but the teacher has only {teacher_depth}: "
                        f"choose one of {', '.join(fitting)}, or {OWN_MODEL}")
    return shape


def size_of(config: PretrainedConfig, name: str) -> int:
    """One size of a configuration by its usual name. Raises `PlanError` if the family has no such size."""
    value = getattr(config, _field(config, name), None)
    if not isinstance(value, int):
        raise PlanError(f"the teacher's configuration ({type(config).__name__}) has no single {name} "
                        f"(found {value!r}), so no student can be derived from it: {OWN_MODEL}")
    return value


def check_overrides(config: PretrainedConfig, overrides: Mapping[str, Any]) -> None:
    """Raise `PlanError` for an asked-for configuration that a student of this teacher cannot have."""
    if not overrides:
        raise PlanError(f"the student's config is empty: give at least one of {', '.join(SIZES)}")
    fields = {name for name in config.to_dict() if not name.startswith("_")}
    known = fields | set(config.attribute_map) | {name for name in SIZES if _field(config, name) in fields}
    sizes = {_field(config, name) for name in SIZES}
    given: dict[str, str] = {}
    for name, value in overrides.items():
        own_name, reason = _field(config, name), _why_fixed(name)
        if name not in known and reason is None:
            raise PlanError(unknown_name(f"setting of {type(config).__name__}", name, known))
        if own_name in given:
            raise PlanError(f"{given[own_name]} and {name} are the same setting of {type(config).__name__}: give one")
        given[own_name] = name
        current = getattr(config, own_name, None)
        if reason is not None and value != current:
            raise PlanError(f"the student's {name} cannot be {value!r} (the teacher's is {current!r}): {reason}; "
                            f"leave {name} out")
        if own_name in sizes and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise PlanError(f"the student's {name} is {value!r}: give a whole number from 1")
    depth, teacher_depth = _asked(config, overrides, DEPTH), size_of(config, DEPTH)
    if depth > teacher_depth:
        raise PlanError(f"the student's {DEPTH} is {depth}, more than the teacher's {teacher_depth}: "
                        f"give at most {teacher_depth}, or use {{shape: T12-nano}}, or {OWN_MODEL}")


def reshaped(config: PretrainedConfig, overrides: Mapping[str, Any],
             kept: Sequence[int] | None = None) -> PretrainedConfig:
    """A copy of the teacher's configuration with some values replaced; labels and attention kernel stay.

    Fields that were the same as the width or the number of heads, such as the embedding size, follow these unless
    overridden. Per-layer fields are taken from the ``kept`` layers of the teacher (from the first ones if None).
    Raises `PlanError` if the result is not a valid configuration of this family.
    """
    for name in SIZES:
        if name in overrides:
            size_of(config, name)  # setting a size that the family does not know would change nothing
    student = copy.deepcopy(config)
    student.name_or_path = ""
    values = {_field(config, name): value for name, value in overrides.items()}
    width, heads = _asked(config, overrides, WIDTH), _asked(config, overrides, HEADS)
    if width % heads:
        low = width // heads * heads
        near = " or ".join(str(w) for w in (low, low + heads) if w)
        raise PlanError(f"a width of {width} cannot be split into {heads} heads: "
                        f"give {WIDTH} {near}, or {HEADS} one of {_divisors(width)}")
    for name, (before, after) in _followers(config, width, heads).items():
        if name in config.to_dict() and getattr(config, name) == before:
            values.setdefault(name, after)
    teacher_depth = size_of(config, DEPTH)
    layers = range(_asked(config, overrides, DEPTH)) if kept is None else kept
    for name in _PER_LAYER:
        per_layer = getattr(config, name, None)
        if per_layer is not None:
            values.setdefault(name, [per_layer[i % teacher_depth] for i in layers])
    try:
        for name, value in values.items():
            setattr(student, name, value)
        student.validate()
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise PlanError(f"the student's configuration is not a valid {type(config).__name__}: {error}") from error
    return student


def _scaled(paper_size: int, teacher_width: int) -> int:
    exact = paper_size * teacher_width
    unit = _PAPER_WIDTH * _MULTIPLE
    return -(-exact // unit) * _MULTIPLE


def _field(config: PretrainedConfig, name: str) -> str:
    """The family's own name of a setting: ``hidden_size`` is ``dim`` in DistilBERT."""
    if name in config.attribute_map:
        return str(config.attribute_map[name])
    fields = config.to_dict()
    return next((other for other in (name, *_OTHER_NAMES.get(name, ())) if other in fields), name)


def _asked(config: PretrainedConfig, overrides: Mapping[str, Any], name: str) -> int:
    """A size of the student: as overridden under either of its names, else the teacher's."""
    size: int = overrides.get(name, overrides.get(_field(config, name), size_of(config, name)))
    return size


def _followers(config: PretrainedConfig, width: int, heads: int) -> dict[str, tuple[int, int]]:
    """Fields that follow width or heads: what they are if they do so in the teacher, and in the student."""
    teacher_width, teacher_heads = size_of(config, WIDTH), size_of(config, HEADS)
    return {
        "embedding_size": (teacher_width, width),
        "pooler_hidden_size": (teacher_width, width),
        "num_key_value_heads": (teacher_heads, heads),
        "head_dim": (teacher_width // teacher_heads, width // heads),
    }


def _why_fixed(name: str) -> str | None:
    if name == "vocab_size" or name.endswith("_token_id"):
        return "the student reads the teacher's tokens, so it keeps the teacher's vocabulary"
    if name in _LABELS:
        return "the student learns the teacher's answers, so it keeps the teacher's labels"
    if name in _CLASS:
        return "the student is a model of the teacher's own class"
    return None


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0 and number // n >= 8) or "1"
