"""The kinds of values that only recipes have, each with the message for a value that is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from stillhouse import presets
from stillhouse.errors import ConfigError, nearest
from stillhouse.layer_maps import LAYER_MAPS
from stillhouse.sections.values import AS_IT_IS, OneOrMore, as_tuple, listed
from stillhouse.types import Duration
from stillhouse.units import parse_bytes

_CACHES = ("auto", "off", "memory")
_CACHE_WORDS = {"on": "auto", "yes": "auto", "true": "auto", "disk": "auto",
                "none": "off", "no": "off", "ram": "memory"}
"""What people write who mean one of those."""

QuantizationName = Literal["int8-dynamic", "8bit", "4bit"]


def _known(what: str, choices: Mapping[str, Any]) -> AfterValidator:
    """A name in one of the dictionaries that users extend."""
    def check(name: str) -> str:
        presets.look_up(what, name, choices)
        return name

    return AfterValidator(check)


def _projection(value: Any) -> Any:
    name, *widths = listed(value) or [value]
    presets.look_up("projection", name, presets.PROJ_MAP)
    if len(widths) not in (0, 2) or not all(type(width) is int and width > 0 for width in widths):
        raise ValueError(f"{value!r}: write a name, or [name, width of the student, width of the teacher]")
    return (name, *widths) if widths else name


def _strategy(value: Any) -> Any:
    choice = tuple(value) if isinstance(value, list) else value
    if not isinstance(choice, (str, tuple)):
        raise ValueError(f"{value!r}: write a name or [name, argument, ...], as in [flsw, 1, 2]")
    presets.strategy_of(choice)
    return choice


def _layer_choice(value: Any) -> Any:
    if isinstance(value, str) and value in LAYER_MAPS:
        return value
    pairs = [tuple(pair) if isinstance(pair, (list, tuple)) else pair for pair in listed(value)]
    if pairs and all(isinstance(p, tuple) and len(p) == 2 and all(type(n) is int for n in p) for p in pairs):
        return tuple(pairs)
    raise ValueError(f"{value!r}: write {', '.join(LAYER_MAPS)}, or a list of pairs [teacher layer, student layer]")


def _match_weight(value: Any) -> Any:
    numbers = value.values() if isinstance(value, Mapping) else [value]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise ValueError(f"{value!r}: write a number from 0, or one for each loss, as in {{hidden_mse: 1, nst: 2}}")
    return dict(value) if isinstance(value, Mapping) else value


def _kept(value: Any) -> Any:
    if value is None or value == "half" or (type(value) is int and value > 0):
        return value
    raise ValueError(f"{value!r}: write half, or how many layers to keep")


def _duration(value: Any) -> Any:
    try:
        Duration.parse(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return value


def _cache(value: Any) -> Any:
    if value is False:
        return "off"  # as most readers of YAML see it
    if value in _CACHES or (isinstance(value, str) and _looks_like_a_folder(value)):
        return value
    word = str(value).lower()
    near = _CACHE_WORDS.get(word) or nearest(word, _CACHES)
    hint = f"did you mean {near}? " if near else ""
    raise ValueError(f"{value!r}: {hint}Write auto, off, memory, or a folder, with ./ before a bare name")


def _quantization(value: Any) -> Any:
    names = get_args(QuantizationName)
    if value is None or isinstance(value, Mapping) or value in names:
        return value
    near = nearest(value, names)
    hint = f"did you mean {near}? " if near else ""
    raise ValueError(f"{value!r} is not one of {', '.join(names)}; {hint}Options of bitsandbytes may stand here "
                     "instead, as a mapping such as {load_in_4bit: true}")


def _byte_size(value: Any) -> Any:
    if value is not None:
        try:
            parse_bytes(str(value))
        except ConfigError as error:
            raise ValueError(str(error)) from error
    return value if value is None else str(value)


def _looks_like_a_folder(value: str) -> bool:
    return value.startswith((".", "~")) or "/" in value or "\\" in value or (bool(value) and Path(value).exists())


Layers = Annotated[str | tuple[tuple[int, int], ...], PlainValidator(_layer_choice), AS_IT_IS]
MatchWeight = Annotated[float | Mapping[str, float], PlainValidator(_match_weight), AS_IT_IS]
Keep = Annotated[Literal["half"] | int | None, PlainValidator(_kept), AS_IT_IS]
DurationText = Annotated[str | float, PlainValidator(_duration), AS_IT_IS]
ByteSize = Annotated[str | None, PlainValidator(_byte_size), AS_IT_IS]
QuantizationChoice = Annotated[QuantizationName | Mapping[str, Any] | None, PlainValidator(_quantization), AS_IT_IS]
CacheName = Annotated[str, BeforeValidator(_cache)]
LayerNumbers = Annotated[tuple[int, ...] | None, BeforeValidator(as_tuple)]
KDLossName = Annotated[str, _known("loss", presets.KD_LOSS_MAP)]
MatchLossName = Annotated[str, _known("match loss", presets.MATCH_LOSS_MAP)]
MatchLosses = Annotated[tuple[MatchLossName, ...], BeforeValidator(as_tuple), Field(min_length=1)]
ScheduleName = Annotated[str, _known("weight schedule", presets.WEIGHT_SCHEDULER)]
ProjectionChoice = Annotated[str | tuple[str, int, int], PlainValidator(_projection), AS_IT_IS]
StrategyChoice = Annotated[str | tuple[Any, ...], PlainValidator(_strategy), AS_IT_IS]
TrackerNames = Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], OneOrMore]
TeacherFunctionName = Annotated[str, _known("teacher function", presets.TEACHER_FUNCTIONS)]
