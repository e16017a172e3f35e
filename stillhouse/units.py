"""Bytes and times as people write and read them: ``20 GB``, ``30d``. Powers of 1000."""

from __future__ import annotations

import re

from stillhouse.errors import ConfigError


def _in_both_cases(word: str) -> str:
    return "".join(f"[{letter.lower()}{letter.upper()}]" for letter in word)


_PREFIXES = "kMGT"
_BYTES: dict[str, int] = {"bytes": 1} | {f"{prefix}B": 1000**power for power, prefix in enumerate(_PREFIXES, start=1)}
_BYTES_BY_WORD = {"": 1, "b": 1, "byte": 1} | {unit.lower(): factor for unit, factor in _BYTES.items()}
_TIMES_S = {"m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_NUMBER = r"(\d+(\.\d+)?|\.\d+)"
_NUMBER_AND_UNIT = re.compile(rf"\s*{_NUMBER}\s*([a-zA-Z]*)\s*")
_ANY_PREFIX = "".join(prefix.lower() + prefix.upper() for prefix in _PREFIXES)
_BYTE_UNIT = f"{_in_both_cases('b')}|{_in_both_cases('byte')}[sS]?|[{_ANY_PREFIX}]{_in_both_cases('b')}"
BYTES_PATTERN = rf"^\s*(0|{_NUMBER}\s*({_BYTE_UNIT}))\s*$"
"""What `parse_bytes` reads, for a JSON Schema, whose expressions have no flags: of the zeros without a unit only 0."""


def readable_bytes(count: float) -> str:
    """A number of bytes for people: ``3.4 MB``."""
    *units, largest = _BYTES
    for unit in units:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {largest}"


def parse_bytes(text: str) -> int:
    """Bytes from ``20 GB``, ``1.5tb`` or ``0``. Raises `ConfigError` for anything else, and for a missing unit."""
    number, unit = _split(text)
    factor = _BYTES_BY_WORD.get(unit.lower())
    if factor is None or number is None or (number and not unit):
        raise ConfigError(f"{text!r} is no size: write a number and a unit ({', '.join(_BYTES)}), as in 20 GB")
    return round(number * factor)


def readable_age(seconds_s: float) -> str:
    """How long ago something was, for people: ``3 days ago``, ``just now``."""
    for name, length_s in (("day", _TIMES_S["d"]), ("hour", _TIMES_S["h"]), ("minute", _TIMES_S["m"])):
        count = int(seconds_s // length_s)
        if count > 0:
            return f"{count:,} {name}{'' if count == 1 else 's'} ago"
    return "just now"


def parse_age(text: str) -> float:
    """Seconds from ``30d``, ``12h``, ``2w`` or ``90m``. Raises `ConfigError` for anything else."""
    number, unit = _split(text)
    factor_s = _TIMES_S.get(unit.lower())
    if factor_s is None or number is None:
        raise ConfigError(f"{text!r} is no time: write a number and a unit (m, h, d or w), as in 30d for 30 days")
    return number * factor_s


def _split(text: str) -> tuple[float | None, str]:
    found = _NUMBER_AND_UNIT.fullmatch(text)
    return (float(found[1]), found[3]) if found else (None, "")
