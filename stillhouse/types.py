"""The small values that everything else is written in: keys, batches, counts, progress and durations."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from stillhouse.errors import ConfigError


class Key(NamedTuple):
    """The name of one tensor that a model gives or a loss asks for.

    ``Key("logits", 0)`` is the first logits head, ``Key("hidden", 3)`` the output of the third layer
    (``Key("hidden", 0)`` is the embedding output).
    """

    kind: str
    index: int | tuple[int, ...] | None = None  # type: ignore[assignment]  # hides tuple.index, which nothing needs
    form: str = "dense"

    def __str__(self) -> str:
        index = "" if self.index is None else f"[{self.index}]"
        return f"{self.kind}{index}" + ("" if self.form == "dense" else f":{self.form}")


LOGITS = Key("logits", 0)
ALL_LOGITS = Key("logits")  # every logits head the adaptor gives, however many
LABELS = Key("labels")
USER_LOSSES = Key("losses")
GRAM = "gram"  # a form: similarities between positions, in place of the two hidden states that they are made of
ATTENTION_SCORES = "attention_scores"  # a kind: attention before its softmax, or the logarithm of probabilities
_MODULE = "module:"


BESIDE_INPUTS = frozenset({"labels", "start_positions", "end_positions", "logits_mask", "soft_labels"})
"""What batches hold beside a model's inputs; no model's answer depends on it."""


def module_key(path: str) -> Key:
    """The key of the output of a named sub-module, such as ``bert.pooler``."""
    return Key(_MODULE + path)


def module_path(key: Key) -> str | None:
    """The sub-module that a key names, or None for another kind of key."""
    return key.kind.removeprefix(_MODULE) if key.kind.startswith(_MODULE) else None


def logits_mask_name(head: int) -> str:
    """The name of the mask of one logits head."""
    return "logits" if head == 0 else f"logits.{head}"


Features = Mapping[Key, Tensor]
"""What an adaptor made of a model's outputs. Logits are (B, C) or (B, L, C), hidden states (B, L, H)."""

Masks = Mapping[str, Tensor]
"""Masks by name, each (B, L) of 0/1; a value per row, such as logits of (B, C), has a mask of (B, 1)."""


class Unit(enum.Enum):
    """What a loss is a sum over. ``count`` gives the number of units under a mask, as a float64 scalar."""

    ROW = "row"  # a row with anything kept counts once
    TOKEN = "token"  # every kept position counts once
    PAIR = "pair"  # a row with n kept positions counts n * n

    def count(self, mask: Tensor) -> Tensor:
        """The number of units in ``mask`` of (B, L)."""
        kept = mask.detach().ne(0).sum(dim=1).double()
        if self is Unit.ROW:
            return kept.ne(0).double().sum()
        return (kept if self is Unit.TOKEN else kept * kept).sum()


class Over(NamedTuple):
    """The denominator of a loss: which unit, under which mask (``"logits"``, ``"inputs"`` or ``"labels"``)."""

    unit: Unit
    mask: str

    def __str__(self) -> str:
        return f"{self.unit.value}s kept by the {self.mask} mask"


@dataclass(frozen=True, eq=False)
class Batch:
    """One micro-batch. Student and teacher inputs are the same object unless the user gave two.

    Inputs are a mapping (passed as keyword arguments) or a tuple (passed in order) and otherwise opaque: only
    adaptors look inside.
    """

    student: Any
    teacher: Any
    task: str = "default"
    teacher_outputs: Any = None  # ready-made outputs of the teacher's model, used instead of its forward
    answers: Features | None = None  # what the teacher says, where that was looked up before (`TeacherSource.lookup`)
    ghost: bool = False  # stands in on a rank that has run out of data: takes part, counts for nothing


@dataclass(frozen=True)
class Progress:
    """How far training is: optimizer steps finished, and how many there will be."""

    step: int
    total_steps: int
    epoch: int = 0

    @property
    def fraction(self) -> float:
        """Finished share, 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 1.0


class DurationUnit(enum.Enum):
    """What a duration is counted in."""

    STEPS = "steps"
    EPOCHS = "epochs"
    FRACTION = "fraction"


@dataclass(frozen=True)
class Duration:
    """A stretch of training: ``Duration.steps(500)``, ``Duration.epochs(0.5)``, ``Duration.fraction(0.1)``.

    >>> Duration.parse("500 steps").in_steps(steps_per_epoch=100, total_steps=1000)
    500
    >>> Duration.parse(0.1).in_steps(steps_per_epoch=100, total_steps=1000)
    100
    """

    value: float
    unit: DurationUnit

    @classmethod
    def steps(cls, value: int) -> Duration:
        """A number of optimizer steps."""
        return cls(value, DurationUnit.STEPS)

    @classmethod
    def epochs(cls, value: float) -> Duration:
        """A number of passes over the data."""
        return cls(value, DurationUnit.EPOCHS)

    @classmethod
    def fraction(cls, value: float) -> Duration:
        """A share of the whole training, 0 to 1."""
        return cls(value, DurationUnit.FRACTION)

    @classmethod
    def parse(cls, text: str | float | int) -> Duration:
        """Read ``"500 steps"``, ``"2 epochs"`` or a plain number (a share of training). Raises `ConfigError`."""
        if isinstance(text, (int, float)) and not isinstance(text, bool):
            if 0 <= text <= 1:
                return cls.fraction(float(text))
            raise ConfigError(f"a duration of {text!r}: a plain number is a share of training, from 0 to 1; "
                              f"for steps or epochs write '{text} steps' or '{text} epochs'")
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?)\s*", str(text))
        if match is None:
            raise ConfigError(f"a duration of {text!r}: write a share from 0 to 1, 'N steps' or 'N epochs'")
        value = float(match[1])
        if match[2].startswith("step"):
            if value != int(value):
                raise ConfigError(f"a duration of {text!r}: steps are whole numbers")
            return cls.steps(int(value))
        return cls.epochs(value)

    def in_steps(self, *, steps_per_epoch: int, total_steps: int) -> int:
        """The number of optimizer steps, rounded to the nearest."""
        scale = {DurationUnit.STEPS: 1, DurationUnit.EPOCHS: steps_per_epoch, DurationUnit.FRACTION: total_steps}
        return round(self.value * scale[self.unit])
