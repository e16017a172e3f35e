"""Runs that differ in their seed alone, taken together; and what the others differ in."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from stillhouse.report.run_files import RunFiles
from stillhouse.sections.flat import flattened

_SEED = re.compile(r"seed-\d+(?=/|$)")
_NOT_COMPARED = {"output", "name", "cache", "trackers", "training.seed", "training.log_every",
                 "teacher.train.log_every"}
"""Keys of a recipe that name or place a run, and change nothing about its student."""


@dataclass(frozen=True)
class Spread:
    """The mean over runs and their standard deviation (n - 1), which a single run has not."""

    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of one value or more."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, as a rule with different seeds."""

    name: str
    runs: tuple[RunFiles, ...]
    settings: Mapping[str, Any]
    """The recipe by dotted key, without what is not compared."""

    @property
    def num_seeds(self) -> int:
        """How many different seeds the runs have: less than runs where one was copied or repeated."""
        return len({run.seed for run in self.runs})

    def spread(self, value: Callable[[RunFiles], float | None]) -> Spread | None:
        """Of a value of each run; None if a run lacks it."""
        values = [value(run) for run in self.runs]
        known = [one for one in values if one is not None]
        return spread(known) if len(known) == len(values) else None


@dataclass(frozen=True)
class Contest:
    """Groups whose numbers can be compared: judged by one measure on the same data."""

    task: str
    metric: str
    split: str
    source: str
    num_rows: int
    groups: tuple[Group, ...]


def contests(runs: Sequence[RunFiles]) -> list[Contest]:
    """Runs sorted by what they were judged by: task, measure, split, and the data's file name and number of rows."""
    by_judge: dict[tuple[str, str, str, str, int], list[RunFiles]] = {}
    for run in runs:
        source = PurePath(str(run.data.get(run.split) or run.data.get("train", ""))).name
        by_judge.setdefault((run.task, run.metric, run.split, source, run.num_rows), []).append(run)
    return [Contest(*judge, grouped(members)) for judge, members in by_judge.items()]


def grouped(runs: Sequence[RunFiles]) -> tuple[Group, ...]:
    """Runs with the same recipe but for seed and output, in the order of their first."""
    found: dict[str, list[RunFiles]] = {}
    for run in runs:
        found.setdefault(json.dumps(_settings(run), sort_keys=True, default=str), []).append(run)
    names = _names([members[0] for members in found.values()], [len(members) for members in found.values()])
    return tuple(Group(name, tuple(members), _settings(members[0]))
                 for name, members in zip(names, found.values(), strict=True))


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Each setting that is not the same in all groups, with its value in each; None where it is not given."""
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    values = {key: [group.settings.get(key) for group in groups] for key in keys}
    return {key: each for key, each in values.items() if any(one != each[0] for one in each)}


def _settings(run: RunFiles) -> dict[str, Any]:
    flat = flattened(run.recipe)
    return {key: _without_seed(value) for key, value in flat.items() if key not in _NOT_COMPARED}


def _without_seed(value: Any) -> Any:
    """A path into the folder of a seed, such as an earlier stage's student, is the same for every seed."""
    return _SEED.sub("seed-N", value) if isinstance(value, str) else value


def _names(firsts: Sequence[RunFiles], sizes: Sequence[int]) -> list[str]:
    """The folder's name; of several seeds that of the folder above; with more of the path where two are the same."""
    paths = []
    for run, size in zip(firsts, sizes, strict=True):
        parts = [part for part in run.path.resolve().parts if size == 1 or not _SEED.fullmatch(part)]
        paths.append(parts[1:] or ["run"])
    length = 1
    while True:
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
        if all(length >= len(parts) for parts in paths):
            return [f"{name} ({number})" for number, name in enumerate(names, start=1)]
        length += 1
