"""Numbers as people read them on a page."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.units import readable_bytes

__all__ = ["as_many", "count", "duration", "measure", "milliseconds", "percent", "readable_bytes", "short_count",
           "times", "together"]

def measure(value: float) -> str:
    """A score: four decimals up to 1, four digits above."""
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:.4g}"


def percent(share: float, digits: int = 1) -> str:
    """A share of 1."""
    return f"{100 * share:.{digits}f} %"


def count(number: float) -> str:
    """A whole number with thousands apart."""
    return f"{number:,.0f}"


def short_count(number: float) -> str:
    """A large number in three digits: ``6.19 M``."""
    for factor, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {letter}"
    return f"{number:.0f}"


def milliseconds(value: float) -> str:
    """A time in milliseconds."""
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def times(factor: float) -> str:
    """A ratio: ``2.6 ×``."""
    return f"{factor:.2g} ×" if factor < 10 else f"{factor:,.0f} ×"


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
