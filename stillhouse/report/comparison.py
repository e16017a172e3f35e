"""What is told of several runs beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from stillhouse.report.blocks import Block, Cell, Charts, Section, Table, Text
from stillhouse.report.charts import Chart, Line, Mark, line_chart, series, trade_off
from stillhouse.report.formatting import (
    as_many,
    count,
    measure,
    milliseconds,
    percent,
    readable_bytes,
    short_count,
    together,
)
from stillhouse.report.groups import Contest, Group, Spread, contests, differences, spread
from stillhouse.report.run_files import RunFiles
from stillhouse.report.sections import student_told, teacher_told

_MOST_LINES = 12

Value = Callable[[RunFiles], "float | None"]


def title_of(runs: Sequence[RunFiles]) -> str:
    """What a page about these runs is called."""
    found = [group for contest in contests(runs) for group in contest.groups]
    if len(found) == 1:
        return f"{found[0].name}, {_seeds_told(found[0])}"
    return f"{as_many(len(runs), 'runs')}" + (" compared" if len(contests(runs)) < len(runs) else "")


def lead_of(runs: Sequence[RunFiles]) -> str:
    """The best of them in a sentence; nothing where they cannot be compared."""
    found = contests(runs)
    if len(found) != 1:
        return ""
    best = _by_quality(found[0])[0]
    kept, metric = best.spread(_retention), found[0].metric
    if kept is not None:
        who = "The best student" if len(found[0].groups) > 1 else "The student"
        return f"{who}, {best.name}, keeps {_told(kept, percent)} of its teacher's {metric}."
    return f"The best student, {best.name}, has {metric} {_told(best.spread(_student(metric)), measure)}."


def comparisons(runs: Sequence[RunFiles], anchors: Mapping[RunFiles, str]) -> list[Section]:
    """A section for each set of runs that were judged by one measure on the same data."""
    found = contests(runs)
    sections = []
    for number, contest in enumerate(found, start=1):
        title = f"{contest.metric} on {contest.source} ({contest.task})"
        sections.append(Section(f"comparison-{number}", title, _contest(contest, anchors)))
    if len(found) > 1:
        apart = Text(f"These {len(runs)} runs were not all judged by one measure on the same data, so they stand in "
                     f"{len(found)} comparisons.")
        sections[0] = Section(sections[0].anchor, sections[0].title, [apart, *sections[0].blocks])
    return sections


def _contest(contest: Contest, anchors: Mapping[RunFiles, str]) -> list[Block]:
    runs = [run for group in contest.groups for run in group.runs]
    blocks: list[Block] = [_table(contest, anchors)]
    if len(runs) == 1:
        return blocks
    has_several = any(len(group.runs) > 1 for group in contest.groups)
    if has_several:
        blocks.append(Text(_what_is_averaged(contest.groups)))
    charts = [chart for chart in (
        _against(contest, "parameters", "Quality against size", "parameters, millions", 1e-6),
        _against(contest, "latency_ms", "Quality against latency", "milliseconds for a single row", 1.0),
        _learning(contest)) if chart is not None]
    if charts:
        blocks.append(Charts(charts))
    settings = _settings(contest.groups)
    if settings is not None:
        blocks.append(settings)
    if has_several:
        blocks.append(_every_run(contest, runs, anchors))
    return blocks


def _seeds_told(group: Group) -> str:
    seeds = as_many(group.num_seeds, "seeds")
    return seeds if group.num_seeds == len(group.runs) else f"{as_many(len(group.runs), 'runs')} of {seeds}"


def _what_is_averaged(groups: Sequence[Group]) -> str:
    nums_runs = {len(group.runs) for group in groups}
    many = str(max(nums_runs)) if len(nums_runs) == 1 else f"up to {max(nums_runs)}"
    repeated = [group.name for group in groups if group.num_seeds < len(group.runs)]
    if not repeated:
        return f"Mean ± standard deviation over {many} seeds."
    return (f"Mean ± standard deviation over {many} runs. Several runs of {together(repeated)} have the same seed, so "
            "their deviation does not tell how much seeds differ.")


def _student(name: str) -> Value:
    return lambda run: run.metrics["student"].get(name)


def _teacher(name: str) -> Value:
    return lambda run: (run.metrics.get("teacher") or {}).get(name)


def _contrast(name: str) -> Value:
    return lambda run: (run.metrics.get("contrast") or {}).get(name)


def _retention(run: RunFiles) -> float | None:
    kept: float | None = run.metrics.get("retention")
    return kept


def _table(contest: Contest, anchors: Mapping[RunFiles, str]) -> Table:
    """A row a group, the best first, below the teachers."""
    has_contrast = any(group.spread(_contrast(contest.metric)) for group in contest.groups)
    rows: list[Sequence[str | Cell]] = []
    for name, runs in _teachers(contest.groups).items():
        rows.append([name, "", _told(_of(runs, _teacher(contest.metric)), measure), *([""] if has_contrast else []),
                     "", "", *_size_and_speed(partial(_of_teachers, runs))])
    for group in _by_quality(contest):
        rows.append([
            Cell(group.name, link=anchors[group.runs[0]]),
            count(group.num_seeds) if group.num_seeds == len(group.runs) else _seeds_told(group),
            _told(group.spread(_student(contest.metric)), measure),
            *([_told(group.spread(_contrast(contest.metric)), measure)] if has_contrast else []),
            _told(group.spread(_retention), percent),
            _told(group.spread(_student("agreement_with_teacher")), percent),
            *_size_and_speed(partial(_of_students, group))])
    columns = ["", "seeds", contest.metric, *(["without teacher"] if has_contrast else []), "retention",
               "agreement", "parameters", "size", "single row", "rows/s"]
    return Table(f"Judged on {as_many(contest.num_rows, 'rows')} of {contest.split} data", columns, rows)


def _size_and_speed(of: Callable[[str], Spread | None]) -> list[str]:
    """Means alone: how much they vary says more about the machine than about the model."""
    told: list[tuple[str, Callable[[float], str]]] = [
        ("parameters", short_count), ("size_bytes", readable_bytes), ("latency_ms", milliseconds),
        ("throughput_rows_per_s", count)]
    found = [(of(name), tell) for name, tell in told]
    return ["" if one is None else tell(one.mean) for one, tell in found]


def _of_teachers(runs: Sequence[RunFiles], name: str) -> Spread | None:
    return _of(runs, _teacher(name))


def _of_students(group: Group, name: str) -> Spread | None:
    return group.spread(_student(name))


def _told(found: Spread | None, tell: Callable[[float], str]) -> str:
    if found is None:
        return ""
    return tell(found.mean) if found.deviation is None else f"{tell(found.mean)} ± {tell(found.deviation)}"


def _of(runs: Sequence[RunFiles], value: Value) -> Spread | None:
    known = [one for one in map(value, runs) if one is not None]
    return spread(known) if known else None


def _by_quality(contest: Contest) -> list[Group]:
    def quality(group: Group) -> float:
        found = group.spread(_student(contest.metric))
        return found.mean if found else 0.0

    return sorted(contest.groups, key=quality, reverse=True)


def _teachers(groups: Sequence[Group]) -> dict[str, list[RunFiles]]:
    """The runs of each teacher that was judged, by a name for it."""
    found: dict[str, list[RunFiles]] = {}
    for group in groups:
        key = str({name: value for name, value in group.settings.items() if name.startswith("teacher.")})
        found.setdefault(key, []).extend(run for run in group.runs if run.metrics.get("teacher"))
    kept = [runs for runs in found.values() if runs]
    if len(kept) == 1:
        return {"teacher": kept[0]}
    names = [f"teacher {teacher_told(runs[0])}" for runs in kept]
    if len(set(names)) < len(names):
        names = [f"teacher {number}" for number in range(1, len(kept) + 1)]
    return dict(zip(names, kept, strict=True))


def _against(contest: Contest, cost: str, title: str, label: str, factor: float) -> Chart | None:
    """Quality against a cost, if there are two points to compare."""
    marks = []
    for name, runs in _teachers(contest.groups).items():
        marks.append((name, _of(runs, _teacher(cost)), _of(runs, _teacher(contest.metric)), True))
    for group in contest.groups:
        marks.append((group.name, group.spread(_student(cost)), group.spread(_student(contest.metric)), False))
    known = [Mark(name, _scaled(x, factor), y, is_teacher) for name, x, y, is_teacher in marks
             if x is not None and y is not None and x.mean > 0]
    if len(known) < 2:
        return None
    has_bars = any(mark.y.deviation for mark in known)
    return trade_off(title, known, label, contest.metric, "bars: standard deviation" if has_bars else "")


def _scaled(one: Spread, factor: float) -> Spread:
    return Spread(one.mean * factor, None if one.deviation is None else one.deviation * factor)


def _learning(contest: Contest) -> Chart | None:
    """The validation score by step, a line a run in the colour of its group."""
    lines = []
    for number, group in enumerate(contest.groups):
        color, style = series(number)
        for run in group.runs:
            points = run.validation_scores()
            lines += [Line(group.name, points, color, style)] if points else []
    if not lines or len(lines) > _MOST_LINES:
        return None
    return line_chart("Learning", lines, "step", f"{contest.metric} on the validation data",
                      note="a line a run" if len(lines) > len(contest.groups) else "")


def _settings(groups: Sequence[Group]) -> Table | None:
    """What the recipes differ in; None where nothing does."""
    found = {key: values for key, values in differences(groups).items()
             if not key.startswith(("student.", "teacher."))}
    told = {"student": [student_told(group.runs[0]) for group in groups],
            "teacher": [teacher_told(group.runs[0]) for group in groups],
            **{key: [_plain(value) for value in values] for key, values in found.items()}}
    rows = [[key, *values] for key, values in told.items() if len(set(values)) > 1]
    if not rows:
        return None
    return Table("What the recipes differ in", ["", *(group.name for group in groups)], rows,
                 num_names=1 + len(groups), is_long=len(rows) > 20)


def _plain(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, (list, tuple)):
        return together([_plain(one) for one in value]) if value else "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    return str(value)


def _every_run(contest: Contest, runs: Sequence[RunFiles], anchors: Mapping[RunFiles, str]) -> Table:
    rows: list[Sequence[str | Cell]] = []
    for run in runs:
        retention = run.metrics.get("retention")
        rows.append([Cell(run.name, link=anchors[run]), str(run.seed), measure(run.quality),
                     "" if retention is None else percent(retention),
                     milliseconds(run.metrics["student"]["latency_ms"])])
    return Table("Every run", ["", "seed", contest.metric, "retention", "single row"], rows, is_long=len(rows) > 20)
