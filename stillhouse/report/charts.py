"""The charts of a report, each a drawing with what its lines and marks mean beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from stillhouse.report import svg
from stillhouse.report.calibration import Calibration
from stillhouse.report.groups import Spread

Points = Sequence[tuple[float, float]]

_DASHES: Mapping[str, str] = {"-": "", "--": "6 3", ":": "2 2", "-.": "6 2 2 2"}
_STYLES = ("-", "--", "-.", ":")
_BEST = 1.0  # of measures that are shares or correlations


@dataclass(frozen=True)
class Key:
    """What a line or mark means, for the legend beside a drawing."""

    name: str
    color: str
    """A variable of the style sheet."""
    dashes: str = ""
    marker: str = ""
    """``dot`` or ``diamond``; else it is a line."""


@dataclass(frozen=True)
class Chart:
    """A drawing, its caption and its legend."""

    title: str
    svg: Markup
    keys: tuple[Key, ...]
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A named line; ``color`` is one of the stand-ins of `svg`."""

    name: str
    points: Points
    color: str
    style: str = "-"
    dots: bool = False

    @property
    def key(self) -> Key:
        """Its place in the legend."""
        return Key(self.name, svg.VARIABLES[self.color], _DASHES[self.style])


@dataclass(frozen=True)
class Mark:
    """A named point with its spread in both directions."""

    name: str
    x: Spread
    y: Spread
    is_teacher: bool = False


def line_chart(title: str, lines: Sequence[Line], x_label: str, y_label: str, *, note: str = "",
               log_x: bool = False, log_y: bool = False) -> Chart:
    """Lines over numbers; points that are not finite are left out, and a scale is logarithmic where all are above 0."""
    kept = [(line, [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]) for line in lines]
    with svg.drawing(title) as made:
        for line, points in kept:
            made.axes.plot([x for x, _ in points], [y for _, y in points], color=line.color, linestyle=line.style,
                           marker="o" if line.dots or len(points) == 1 else None)
        heights = [y for _, points in kept for _, y in points]
        if log_y and heights and min(heights) > 0:
            _logarithmic(made.axes, "y", heights)
        ticks = sorted({x for _, points in kept for x, _ in points})
        if len(ticks) == 1:
            made.axes.set_xticks(ticks)
        elif log_x:
            made.axes.set_xscale("log")
            made.axes.xaxis.set_major_locator(FixedLocator(ticks))
            made.axes.xaxis.set_minor_locator(NullLocator())
            made.axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        else:
            made.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _label(made.axes, x_label, y_label)
    return Chart(title, made.svg, tuple(dict.fromkeys(line.key for line in lines)), note)


def series(number: int) -> tuple[str, str]:
    """The colour and style of the n-th of many lines; the style changes too, for those who see no colours."""
    return svg.SERIES[number % len(svg.SERIES)], _STYLES[(number // len(svg.SERIES) + number) % len(_STYLES)]


def reliability(title: str, model: str, found: Calibration) -> Chart:
    """Accuracy in each bin of confidence beside the diagonal on which a calibrated model's bars end."""
    color = svg.TEACHER if model == "teacher" else svg.STUDENT
    with svg.drawing(title) as made:
        axes = made.axes
        filled = [one for one in found.bins if one.count]
        width = found.bins[0].high - found.bins[0].low
        most = max(one.count for one in filled)
        for one in filled:  # a bar of few answers is pale, for it says little
            axes.bar(one.low + width / 2, one.accuracy, width * 0.86, color=color,
                     alpha=0.3 + 0.6 * (one.count / most) ** 0.5, linewidth=0)
        axes.plot([0, 1], [0, 1], color=svg.FAINT, linestyle="--", linewidth=1)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        _label(axes, "confidence", "share that is right")
    return Chart(title, made.svg, ())


def trade_off(title: str, marks: Sequence[Mark], x_label: str, y_label: str, note: str = "") -> Chart:
    """Quality against a cost on a logarithmic scale, with error bars; each mark has its name beside it."""
    xs = [mark.x.mean for mark in marks]
    middle = math.sqrt(min(xs) * max(xs))
    with svg.drawing(title) as made:
        for mark in marks:
            color = svg.TEACHER if mark.is_teacher else svg.STUDENT
            made.axes.errorbar(
                [mark.x.mean], [mark.y.mean], xerr=_bar(mark.x), yerr=_bar(mark.y), color=color, elinewidth=1.2,
                capsize=2.5, marker="D" if mark.is_teacher else "o", markersize=6, linestyle="none")
            on_the_left = mark.x.mean <= middle
            made.axes.annotate(
                mark.name, (mark.x.mean, mark.y.mean), xytext=(7 if on_the_left else -7, -11 if mark.is_teacher else 5),
                textcoords="offset points", ha="left" if on_the_left else "right", color=svg.INK)
        _logarithmic(made.axes, "x", [end for mark in marks for end in _ends(mark.x)])
        made.axes.margins(y=0.18)
        if max(mark.y.mean for mark in marks) <= _BEST < made.axes.get_ylim()[1]:  # of a share, for instance
            made.axes.set_ylim(top=_BEST + 0.12 * (_BEST - made.axes.get_ylim()[0]))
            made.axes.set_yticks([tick for tick in made.axes.get_yticks() if tick <= _BEST])
        _label(made.axes, x_label, y_label)
    keys = [Key("teacher", svg.VARIABLES[svg.TEACHER], marker="diamond")] if any(m.is_teacher for m in marks) else []
    keys.append(Key("student", svg.VARIABLES[svg.STUDENT], marker="dot"))
    return Chart(title, made.svg, tuple(keys), note)


def scores(title: str, pairs: Points, x_label: str, y_label: str, color: str) -> Chart:
    """A point a row, one score against another."""
    with svg.drawing(title) as made:
        made.axes.plot([x for x, _ in pairs], [y for _, y in pairs], color=color, linestyle="none", marker="o",
                       markersize=3, alpha=max(0.15, min(0.8, 40 / len(pairs) ** 0.75)), markeredgewidth=0)
        _label(made.axes, x_label, y_label)
    return Chart(title, made.svg, ())


def _bar(one: Spread) -> list[float] | None:
    return [one.deviation] if one.deviation else None


def _ends(one: Spread) -> tuple[float, float]:
    """Where its bar ends; above 0, as a logarithmic scale needs it."""
    deviation = one.deviation or 0.0
    return max(one.mean - deviation, one.mean / 4), one.mean + deviation


def _label(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def _logarithmic(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic scale with round numbers at its ticks, the more the shorter it is."""
    low, high = min(values), max(values)
    edge = 1.0 if high / low > 1.5 else 1.5
    low, high = low / edge / 1.15, high * edge * 1.15
    set_scale, set_limits, axis = ((axes.set_xscale, axes.set_xlim, axes.xaxis) if which == "x"
                                   else (axes.set_yscale, axes.set_ylim, axes.yaxis))
    set_scale("log")
    steps = (1, 2, 3, 5, 7) if high / low < 12 else (1, 2, 5) if high / low < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_plain))
    set_limits(low, high)


def _plain(value: float, _: Any = None) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
