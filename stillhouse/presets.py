"""The named choices of the paper's configurations, in dictionaries that users extend.

    KD_LOSS_MAP            f(logits_S, logits_T, temperature) -> mean
    MATCH_LOSS_MAP         f(state_S, state_T, mask=None) -> mean; lists of two states where the loss takes two
    PROJ_MAP               f(dim_S, dim_T) -> nn.Module
    WEIGHT_SCHEDULER       f(x) -> weight, x the finished share of training
    TEMPERATURE_SCHEDULER  f(logits_S, logits_T, base_temperature) -> temperature; looked up with a list, as in
                           TEMPERATURE_SCHEDULER[["flsw", 1, 2]], the entry is first called with its arguments
    TEACHER_FUNCTIONS      f(texts) -> probabilities, a teacher that is no model here; empty until users add one

A shipped loss is a `KDPreset` or `MatchPreset`: callable as above, and carrying the `Loss` that training uses. A plain
function assigned into a map is a configuration value at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse import plugins, projections
from stillhouse.errors import ConfigError, unknown_name
from stillhouse.losses import (
    EMD,
    FSP,
    NST,
    PKD,
    AttentionCE,
    AttentionCEMean,
    AttentionMSE,
    AttentionMSESum,
    BernoulliKL,
    Cosine,
    CostAttentionEMD,
    ForwardKL,
    FunctionLogitsLoss,
    FunctionLoss,
    HiddenMSE,
    KDLoss,
    LogitMSE,
    LogitsLoss,
    Loss,
    MatchLoss,
    SoftCrossEntropy,
)
from stillhouse.losses.base import as_tokens, upcast
from stillhouse.losses.temperature import CWSM, FLSW, Strategy, constant
from stillhouse.types import Key

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
    """A loss between layers, callable as a mean: ``preset(state_S, state_T, mask=None)``, mask (B, L) of any type."""

    loss: type[MatchLoss]

    def __call__(self, state_S: States, state_T: States, mask: Tensor | None = None) -> Tensor:
        student, teacher = ([as_tokens(state) if self.loss.reads == "hidden" else state for state in _as_list(side)]
                            for side in (state_S, state_T))
        length = student[0].shape[1 if self.loss.reads == "hidden" else -1]
        if mask is None or self.loss.first_only:
            mask = torch.ones(len(student[0]), length, dtype=torch.bool, device=student[0].device)
        elif length == 1:  # one vector a row
            mask = mask.ne(0).any(dim=1, keepdim=True)
        count = self.loss.unit.count(mask).clamp_min(1).to(upcast(student[0]))
        student_keys, teacher_keys = ([Key("state", i) for i in range(len(side))] for side in (student, teacher))
        loss = self.loss(student_keys, teacher_keys)
        return loss.masked_total(student, teacher, mask) / count


@dataclass(frozen=True)
class NamedStrategy:
    """A temperature strategy as a configuration says it: a plain value that is looked up when it is called."""

    choice: str | list[Any]

    def __post_init__(self) -> None:
        strategy_of(self.choice)

    def __call__(self, logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> float | Tensor:
        return strategy_of(self.choice)(logits_S, logits_T, base_temperature)


class TemperatureStrategies(MutableMapping[Any, Callable[..., Any]]):
    """Strategies by name; with a list ``[name, *arguments]`` or ``[name, {arguments}]``, made with these arguments."""

    def __init__(self, strategies: Mapping[str, Callable[..., Any]]) -> None:
        self._by_name = dict(strategies)

    def __getitem__(self, key: str | Sequence[Any]) -> Callable[..., Any]:
        if isinstance(key, str):
            return self._by_name[key]
        name, arguments = key[0], key[1:]
        if len(arguments) == 1 and isinstance(arguments[0], Mapping):
            made: Callable[..., Any] = self._by_name[name](**arguments[0])
            return made
        return self._by_name[name](*arguments) if arguments else self._by_name[name]

    def __setitem__(self, name: str, strategy: Callable[..., Any]) -> None:
        self._by_name[name] = strategy

    def __delitem__(self, name: str) -> None:
        del self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def linear_decay(x: float) -> float:
    """1 at the start, 0 at the end."""
    return 1 - x


def linear_growth(x: float) -> float:
    """0 at the start, 1 at the end."""
    return x


FEATURES = ["hidden", "attention"]
KD_LOSS_MAP: dict[str, Callable[..., Tensor]] = {
    "ce": KDPreset(SoftCrossEntropy), "mse": KDPreset(LogitMSE), "forward_kl": KDPreset(ForwardKL),
    "bernoulli_kl": KDPreset(BernoulliKL),
}
MATCH_LOSS_MAP: dict[str, Callable[..., Tensor]] = {
    "hidden_mse": MatchPreset(HiddenMSE),
    "cos": MatchPreset(Cosine),
    "pkd": MatchPreset(PKD),
    "fsp": MatchPreset(FSP),
    "gram": MatchPreset(FSP),
    "nst": MatchPreset(NST),
    "mmd": MatchPreset(NST),
    "attention_mse": MatchPreset(AttentionMSE),
    "attention_mse_sum": MatchPreset(AttentionMSESum),
    "attention_ce": MatchPreset(AttentionCE),
    "attention_ce_mean": MatchPreset(AttentionCEMean),
    "emd": MatchPreset(EMD),
    "emd_cost_attention": MatchPreset(CostAttentionEMD),
}
PROJ_MAP: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": projections.linear, "relu": projections.relu, "tanh": projections.tanh,
}
WEIGHT_SCHEDULER: dict[str, Callable[[float], float]] = {"linear_decay": linear_decay, "linear_growth": linear_growth}
TEMPERATURE_SCHEDULER = TemperatureStrategies({"constant": constant, "flsw": FLSW, "cwsm": CWSM})
TEACHER_FUNCTIONS: dict[str, Callable[..., Any]] = {}

_MAPS: dict[str, MutableMapping[str, Callable[..., Any]]] = {
    "kd_loss": KD_LOSS_MAP,
    "match_loss": MATCH_LOSS_MAP,
    "match_Loss": MATCH_LOSS_MAP,  # as the original spells it
    "projection": PROJ_MAP,
    "weight_scheduler": WEIGHT_SCHEDULER,
    "temperature_scheduler": TEMPERATURE_SCHEDULER,
    "teacher_function": TEACHER_FUNCTIONS,
}


def register_new(map_name: str, name: str, func: Callable[..., Any]) -> None:
    """Add a named choice. Raises `ConfigError` for an unknown map, and for what cannot be called."""
    if map_name not in _MAPS:
        raise ConfigError(unknown_name("map", map_name, _MAPS))
    if not callable(func):
        raise ConfigError(f"register_new({map_name!r}, {name!r}, ...): {func!r} cannot be called; give a function")
    _MAPS[map_name][name] = func


def kd_loss(name: str, temperature: float, *, strategy: Strategy | None = None,
            probability_shift: bool = False) -> KDLoss:
    """The loss behind a name in ``KD_LOSS_MAP``. Raises `ConfigError`."""
    preset = look_up("kd_loss_type", name, KD_LOSS_MAP)
    if isinstance(strategy, NamedStrategy):
        strategy = strategy_of(strategy.choice)
    if isinstance(preset, KDPreset):
        return preset.loss(temperature, strategy=strategy, probability_shift=probability_shift)
    return FunctionLogitsLoss(preset, temperature, strategy=strategy, probability_shift=probability_shift)


def match_loss(name: str, student: Sequence[Key], teacher: Sequence[Key],
               new_projection: Callable[[], nn.Module] | None = None) -> Loss:
    """The loss behind a name in ``MATCH_LOSS_MAP``, between the given layers.

    ``new_projection`` makes a projection for the student's layers: one for all of them, or one for each where a loss
    takes any number of layers. Raises `ConfigError` for a name that does not exist and for a projection of attention.
    """
    preset = look_up("match loss", name, MATCH_LOSS_MAP)
    if not isinstance(preset, MatchPreset):
        return FunctionLoss(preset, student, teacher, new_projection() if new_projection else None)
    if new_projection is None:
        return preset.loss(student, teacher)
    if preset.loss.reads == "attention":
        raise ConfigError(f"{name} compares attention maps, which need no projection; drop proj")
    if preset.loss.num_layers is None:
        return preset.loss(student, teacher, nn.ModuleList(new_projection() for _ in student))
    return preset.loss(student, teacher, new_projection())


def match_kind(name: str) -> type[MatchLoss] | None:
    """The shipped loss behind a name in ``MATCH_LOSS_MAP``; None for a function of the user's. Raises `ConfigError`."""
    preset = look_up("match loss", name, MATCH_LOSS_MAP)
    return preset.loss if isinstance(preset, MatchPreset) else None


def strategy_of(choice: str | Sequence[Any]) -> Strategy:
    """The temperature strategy behind a name, ``[name, *arguments]`` or ``[name, {arguments}]``.

    Raises `ConfigError` for an unknown name and for arguments that are missing or too many.
    """
    name = choice if isinstance(choice, str) else choice[0] if choice else ""
    found = look_up("temperature strategy", name, TEMPERATURE_SCHEDULER)
    try:
        strategy: Strategy = TEMPERATURE_SCHEDULER[choice]
        return strategy() if isinstance(strategy, type) else strategy
    except TypeError as error:
        problem = str(error).removeprefix(f"{getattr(found, '__name__', name)}.__init__() ")
        raise ConfigError(f"temperature strategy {choice!r} {problem}; write [{name}, ARGUMENT, ...], as in "
                          "[flsw, 1, 2] (beta, gamma) or [cwsm, 1] (beta)") from error


def look_up(what: str, name: Any, choices: Mapping[Any, Any]) -> Any:
    """The choice with that name, which an installed plugin may bring. Raises `ConfigError` with the known names."""
    if isinstance(name, str) and name not in choices:
        plugins.load_installed()
    if not isinstance(name, str) or name not in choices:
        raise ConfigError(unknown_name(what, str(name), choices))
    return choices[name]


def _as_list(states: States) -> list[Tensor]:
    return [states] if isinstance(states, Tensor) else list(states)
