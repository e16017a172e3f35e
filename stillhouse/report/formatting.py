"""Numbers as people read them on a page."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.units import readable_bytes

__all__ = ["as_many", "count", "duration", "measure", "milliseconds", "percent", "ratio", "readable_bytes",
           "short_count", "times", "together"]

_ROUNDED = 0.9995
"""The least share of a power of 1000 that three digits round up to it."""


def measure(value: float) -> str:
    """A score: four decimals up to 1, four digits above, a whole number from 1000 up."""
    size = abs(value)
    return f"{value:.4f}" if size <= 1 else f"{value:.4g}" if size < 999.95 else count(value)


def percent(share: float, digits: int = 1) -> str:
    """A share of 1."""
    return f"{100 * share:.{digits}f} %"


def count(number: float) -> str:
    """A whole number with thousands apart."""
    return f"{number:,.0f}"


def short_count(number: float) -> str:
    """A large number in three digits: ``6.19 M``."""
    for factor, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= _ROUNDED * factor:
            told = number / factor
            return f"{told:.3g} {letter}" if told < 1000 * _ROUNDED else f"{count(told)} {letter}"
    return f"{number:.0f}"


def milliseconds(value: float) -> str:
    """A time in milliseconds."""
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def ratio(factor: float) -> str:
    """How many times as much: two digits up to 10, a whole number above."""
    return f"{factor:.2g}" if factor < 10 else count(factor)


def times(factor: float) -> str:
    """A ratio with its sign: ``2.6 ×``."""
    return f"{ratio(factor)} ×"


def duration(seconds_s: float) -> str:
    """A time for people: ``2 min 55 s``."""
    total = round(seconds_s)
    if total < 60:
        return f"{seconds_s:.1f} s"
    hours, rest = divmod(total, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def as_many(number: int, what: str) -> str:
    """A number of things: ``1 row``, ``423 rows``; ``what`` is the plural."""
    return f"{number:,} {what.removesuffix('s') if number == 1 else what}"


def together(names: Sequence[str]) -> str:
    """Names as in a sentence: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
