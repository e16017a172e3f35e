"""The named choices of the paper's configurations, in dictionaries that users extend.

``KD_LOSS_MAP``            ``f(logits_S, logits_T, temperature) -> mean``
``MATCH_LOSS_MAP``         ``f(state_S, state_T, mask=None) -> mean``; lists of two states where the loss takes two
``PROJ_MAP``               ``f(dim_S, dim_T) -> nn.Module``
``WEIGHT_SCHEDULER``       ``f(x) -> weight``, x the finished share of training
``TEMPERATURE_SCHEDULER``  ``f(logits_S, logits_T, base_temperature) -> temperature``

A shipped loss is a `KDPreset` or `MatchPreset`: callable as above, and carrying the `Loss` that training uses. A plain
function assigned into a map is a configuration value at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse import projections
from stillhouse.errors import ConfigError, unknown_name
from stillhouse.losses import (
    NST,
    PKD,
    Cosine,
    FeatureLoss,
    FunctionLogitsLoss,
    FunctionLoss,
    HiddenMSE,
    LogitMSE,
    LogitsLoss,
    Loss,
    SoftCrossEntropy,
)
from stillhouse.losses.base import as_tokens, upcast
from stillhouse.types import Key, Unit

States = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class KDPreset:
    """A logits loss, callable as a mean over every position: ``preset(logits_S, logits_T, temperature=1)``.

    ``temperature`` is a number, or a tensor with one for each position: (B,) or (B, L).
    """

    loss: type[LogitsLoss]

    def __call__(self, logits_S: Tensor, logits_T: Tensor, temperature: float | Tensor = 1) -> Tensor:
        if isinstance(temperature, Tensor) and temperature.dim():
            temperature = temperature.reshape(logits_S.shape[0], -1, 1)
        return self.loss.per_token(as_tokens(upcast(logits_S)), as_tokens(upcast(logits_T)), temperature).mean()


@dataclass(frozen=True)
class MatchPreset:
    """A feature loss, callable as a mean: ``preset(state_S, state_T, mask=None)``, mask (B, L) of any type."""

    loss: type[FeatureLoss]

    def __call__(self, state_S: States, state_T: States, mask: Tensor | None = None) -> Tensor:
        student = [as_tokens(state) for state in _as_list(state_S)]
        teacher = [as_tokens(state) for state in _as_list(state_T)]
        if mask is None or self.loss.unit is Unit.ROW:
            mask = torch.ones(student[0].shape[:2], dtype=torch.bool, device=student[0].device)
        count = self.loss.unit.count(mask).clamp_min(1).to(student[0])
        return self.loss.masked_total(student, teacher, mask) / count


def linear_decay(x: float) -> float:
    """1 at the start, 0 at the end."""
    return 1 - x


def linear_growth(x: float) -> float:
    """0 at the start, 1 at the end."""
    return x


def constant_temperature(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> float:
    """The base temperature."""
    return base_temperature


FEATURES = ["hidden", "attention"]
KD_LOSS_MAP: dict[str, Callable[..., Tensor]] = {"ce": KDPreset(SoftCrossEntropy), "mse": KDPreset(LogitMSE)}
MATCH_LOSS_MAP: dict[str, Callable[..., Tensor]] = {
    "hidden_mse": MatchPreset(HiddenMSE),
    "cos": MatchPreset(Cosine),
    "pkd": MatchPreset(PKD),
    "nst": MatchPreset(NST),
    "mmd": MatchPreset(NST),
}
PROJ_MAP: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": projections.linear, "relu": projections.relu, "tanh": projections.tanh,
}
WEIGHT_SCHEDULER: dict[str, Callable[[float], float]] = {"linear_decay": linear_decay, "linear_growth": linear_growth}
TEMPERATURE_SCHEDULER: dict[str, Callable[..., Any]] = {"constant": constant_temperature}

_MAPS: dict[str, dict[str, Callable[..., Any]]] = {
    "kd_loss": KD_LOSS_MAP,
    "match_loss": MATCH_LOSS_MAP,
    "match_Loss": MATCH_LOSS_MAP,  # as the original spells it
    "projection": PROJ_MAP,
    "weight_scheduler": WEIGHT_SCHEDULER,
    "temperature_scheduler": TEMPERATURE_SCHEDULER,
}


def register_new(map_name: str, name: str, func: Callable[..., Any]) -> None:
    """Add a named choice. Raises `ConfigError` for an unknown map."""
    if map_name not in _MAPS:
        raise ConfigError(unknown_name("map", map_name, _MAPS))
    _MAPS[map_name][name] = func


def kd_loss(name: str, temperature: float) -> Loss:
    """The loss behind a name in ``KD_LOSS_MAP``. Raises `ConfigError`."""
    preset = look_up("kd_loss_type", name, KD_LOSS_MAP)
    if isinstance(preset, KDPreset):
        return preset.loss(temperature)
    return FunctionLogitsLoss(preset, temperature)


def match_loss(name: str, student: Sequence[Key], teacher: Sequence[Key], projection: nn.Module | None) -> Loss:
    """The loss behind a name in ``MATCH_LOSS_MAP``, between the given layers. Raises `ConfigError`."""
    preset = look_up("match loss", name, MATCH_LOSS_MAP)
    if isinstance(preset, MatchPreset):
        return preset.loss(student, teacher, projection)
    return FunctionLoss(preset, student, teacher, projection)


def look_up(what: str, name: str, choices: dict[str, Any]) -> Any:
    """The choice with that name. Raises `ConfigError` with the known names."""
    if name not in choices:
        raise ConfigError(unknown_name(what, name, choices))
    return choices[name]


def _as_list(states: States) -> list[Tensor]:
    return [states] if isinstance(states, Tensor) else list(states)
