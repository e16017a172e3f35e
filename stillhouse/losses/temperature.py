"""Temperature strategies: a temperature for each prediction, from how the two models' logits compare.

Both are of Wen et al. 2019, Preparing Lessons: Improve Knowledge Distillation with Better Supervision,
arXiv:1911.07471. They do not depend on the training step (the original calls them schedulers nevertheless). Each mean
is over all predictions of a call, so the loss of a row depends on the rows beside it in the micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Strategy = Callable[[Tensor, Tensor, float], "float | Tensor"]
"""``f(logits_S, logits_T, base_temperature)``: one temperature, or one for each prediction, (..., C) -> (...)."""

LOWEST_SHARE = 0.1
"""Losses do not use a temperature below this share of the base temperature: at 0 it divides by nothing, and below it
turns every preference around."""



def constant(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> float:
    """The base temperature."""
    return base_temperature


@dataclass(frozen=True)
class FLSW:
    """Focal-loss style weighting: lower where student and teacher disagree more.

    With w = (1 - cos(S, T)) ** gamma, the temperature is ``base + beta * (mean(w) - w)``. No gradient flows through it.
    """

    beta: float
    gamma: float
    eps: float = 1e-4

    def __post_init__(self) -> None:
        _require_numbers(beta=self.beta, gamma=self.gamma, eps=self.eps)

    def __call__(self, logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> Tensor:
        student, teacher = (side / (side.norm(dim=-1, keepdim=True) + self.eps)
                            for side in (_classes(logits_S), _classes(logits_T)))
        # rounding can put a cosine a little above 1, and a power of a negative number is not a number
        distance: Tensor = (1 - (student * teacher).sum(dim=-1)).clamp_min(0) ** self.gamma
        return base_temperature + self.beta * (distance.mean() - distance)


@dataclass(frozen=True)
class CWSM:
    """Confidence weighting by the student's largest probability: lower where the student is unsure.

    With w = 1 / (max softmax(S) + 0.001), the temperature is ``base + beta * (mean(w) - w)``, without a gradient.
    """

    beta: float

    def __post_init__(self) -> None:
        _require_numbers(beta=self.beta)

    def __call__(self, logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> Tensor:
        unsureness = 1 / (logits_S.detach().softmax(dim=-1).amax(dim=-1) + 1e-3)
        return base_temperature + self.beta * (unsureness.mean() - unsureness)


def _classes(logits: Tensor) -> Tensor:
    """Logits without a graph, 0 where there is no class."""
    logits = logits.detach()
    return logits.masked_fill(logits.isneginf(), 0.0)


def _require_numbers(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, (int, float)):
            raise TypeError(f"takes numbers, and {name} is {value!r}")


def temperatures(strategy: Strategy, student_NC: Tensor, teacher_NC: Tensor, base: float) -> float | Tensor:
    """What a strategy gives for N predictions: a number or (N,); never below `LOWEST_SHARE` of the base."""
    with torch.no_grad():
        found = strategy(student_NC.detach(), teacher_NC, base)
        return found.clamp_min(LOWEST_SHARE * base) if isinstance(found, Tensor) else found
