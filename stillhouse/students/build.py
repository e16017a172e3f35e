"""The one way to make a student from a teacher: say what is wanted, see the plan, build it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.errors import ConfigError, PlanError
from stillhouse.students import layers as layer_choice
from stillhouse.students.families import require_known_family
from stillhouse.students.networks import build_network, network_config
from stillhouse.students.shapes import (
    DEPTH,
    HEADS,
    OWN_MODEL,
    WIDTH,
    check_overrides,
    named_shape,
    reshaped,
    size_of,
)
from stillhouse.students.word_models import WordConfig


@dataclass(frozen=True)
class StudentSpec:
    """What is asked for: exactly one of the five, but for ``config``, which may give a network's sizes.

    Raises `ConfigError` otherwise.

    >>> StudentSpec(keep="half").keep
    'half'
    """

    shape: str | None = None
    """A named shape, see `known_shapes`. T6 and T3 start from the teacher's layers, the others from scratch."""
    layers: tuple[int, ...] | None = None
    """The teacher's layers to keep, counted from 0 and increasing; negative numbers count from the end."""
    keep: Literal["half"] | int | None = None
    """``"half"`` keeps layers 0, 2, 4, ...; a number keeps that many, evenly spread from layer 0 on."""
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    """A new shape from scratch: values of the teacher's configuration to replace, such as ``hidden_size``.

    Beside ``network``, its sizes: ``num_hidden_layers``, ``hidden_size`` (of both directions together), ``dropout``
    and, of a CNN, ``kernel_size``.
    """
    network: str | None = None
    """BiGRU, BiLSTM or CNN: no transformer, but the teacher's word embeddings under layers of its own."""

    def __post_init__(self) -> None:
        ways = {"shape": self.shape, "layers": self.layers, "keep": self.keep, "config": self.config,
                "network": self.network}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1 and given != ["config", "network"]:
            raise ConfigError(f"a student is described by exactly one of {', '.join(ways)} (config may stand beside "
                              f"network, for its sizes); got {' and '.join(given) or 'none of them'}")
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))


@dataclass(frozen=True)
class StudentPlan:
    """What will be built, known before any weights are."""

    config: PretrainedConfig
    """The student's configuration, with the teacher's labels."""
    layers: tuple[int, ...]
    """The teacher's layers it starts from, counted from 0; empty if it starts from none of them."""
    network: str | None = None
    """The network that it is, if it is no transformer of the teacher's class."""

    @property
    def starts_from(self) -> Literal["the teacher's layers", "the teacher's word embeddings", "scratch"]:
        """What is copied from the teacher. With its layers its embeddings, pooler and head are too."""
        if self.layers:
            return "the teacher's layers"
        return "scratch" if self.network is None else "the teacher's word embeddings"

    @property
    def from_scratch(self) -> bool:
        """Whether nothing is copied."""
        return self.starts_from == "scratch"

    @property
    def description(self) -> str:
        """One line for people.

        ``3 layers x 384, 12 heads, from the teacher's layers 0, 1, 2 (counted from 0)``
        """
        size = f"{_counted(size_of(self.config, DEPTH), 'layer')} x {size_of(self.config, WIDTH)}"
        if self.network is not None:
            return f"{self.network}, {size}, with the teacher's word embeddings"
        size += f", {_counted(size_of(self.config, HEADS), 'head')}"
        if self.from_scratch:
            return f"{size}, from scratch"
        layers = "layer" if len(self.layers) == 1 else "layers"
        return f"{size}, from the teacher's {layers} {', '.join(map(str, self.layers))} (counted from 0)"


def plan_student(teacher_config: PretrainedConfig, spec: StudentSpec) -> StudentPlan:
    """Work out the student from the teacher's configuration alone; nothing is loaded or changed.

    Raises `PlanError` for an unknown shape, one deeper than the teacher (T12-nano may be), layers that do not exist,
    a width that the heads do not divide, unknown settings, another vocabulary, other labels or another class, and,
    unless a network is asked for, a teacher of an unknown family.
    """
    if spec.network is not None:
        return StudentPlan(network_config(teacher_config, spec.network, spec.config or {}), (), spec.network)
    require_known_family(teacher_config)
    depth = size_of(teacher_config, DEPTH)
    if spec.config is not None:
        check_overrides(teacher_config, spec.config)
        return StudentPlan(reshaped(teacher_config, spec.config), ())
    if spec.shape is not None:
        shape = named_shape(spec.shape, depth)
        if shape.width is not None:
            return StudentPlan(reshaped(teacher_config, shape.sizes(size_of(teacher_config, WIDTH))), ())
        kept = layer_choice.START_OF_NAMED_SHAPES(depth, shape.depth)
    elif spec.layers is not None:
        kept = layer_choice.chosen(spec.layers, depth)
    else:
        kept = _kept(spec.keep, depth)
    return StudentPlan(reshaped(teacher_config, {DEPTH: len(kept)}, kept), kept)


def build_student(teacher_model: nn.Module, spec: StudentSpec, seed: int | None = None) -> PreTrainedModel:
    """A student of the teacher's own class, or a network, on the CPU, in training mode, all parameters trainable.

    New weights are drawn from ``seed``, or from where the global generator stands if it is None; the global generator
    itself does not move, and the teacher is not changed. Weights have torch's default dtype whatever the teacher's.
    Raises `PlanError` as `plan_student` does, and for a teacher whose layers (for a network: whose word embeddings)
    cannot be found, or with a head that the network has not.
    """
    if not isinstance(teacher_model, PreTrainedModel):
        raise PlanError(f"a student can be derived only from a transformers model, and the teacher is a "
                        f"{type(teacher_model).__name__}: {OWN_MODEL}")
    plan = plan_student(teacher_model.config, spec)
    if plan.network is not None:
        with _own_randomness(seed):
            return build_network(teacher_model, plan.network, cast(WordConfig, plan.config))
    depth = size_of(teacher_model.config, DEPTH)
    layer_choice.layer_list(teacher_model, depth)  # a teacher of unknown structure is refused before building
    with _own_randomness(seed):
        try:
            student = type(teacher_model)(plan.config)
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise PlanError(f"a {type(teacher_model).__name__} cannot be built as {plan.description}: "
                            f"{error}. Change the shape, or {OWN_MODEL}") from error
    if not plan.from_scratch:
        layer_choice.copy_weights(teacher_model, student, plan.layers, depth)
    return student


def _kept(keep: object, depth: int) -> tuple[int, ...]:
    if keep == "half":
        return layer_choice.every_second(depth)
    if not isinstance(keep, int) or isinstance(keep, bool) or not 1 <= keep <= depth:
        raise PlanError(f"keep is {keep!r}: write 'half', or a number of layers from 1 to the teacher's {depth}")
    return layer_choice.spread(depth, keep)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@contextmanager
def _own_randomness(seed: int | None) -> Iterator[None]:
    """Draw on the CPU, from the seed, without moving the global generators."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would re-seed every accelerator too
        yield
