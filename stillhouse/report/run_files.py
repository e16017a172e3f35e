"""What a run folder holds, as plain values, and which runs lie below a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from stillhouse.errors import ConfigError, DataError
from stillhouse.sections.stages import stage_folder

Line = Mapping[str, Any]
"""One JSON object of a file that holds one a line."""

_RECIPE, _METRICS, _PREDICTIONS = "recipe.yaml", "metrics.json", "predictions.jsonl"
_EXPORT = "onnx/export.json"  # where an export is written that is given no other place
_SEED_FOLDER = re.compile(r"seed-\d+")
_NO_RUNS_INSIDE = {"checkpoints", "student", "profile"}
_DEPTH = 3  # of runs below a folder: stages below a seed below what they have in common
_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True, eq=False)
class RunFiles:
    """A finished run. Files are read when they are asked for."""

    path: Path
    recipe: Mapping[str, Any]
    recipe_text: str
    metrics: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name; of a run for one seed, that of the folder above too."""
        path = self.path.resolve()
        return f"{path.parent.name}/{path.name}" if _SEED_FOLDER.fullmatch(path.name) else path.name

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.metrics["task"])

    @property
    def metric(self) -> str:
        """The name of the measure that counts."""
        return str(self.metrics["metric"])

    @property
    def split(self) -> str:
        """The split that models are judged on."""
        return str(self.metrics["split"])

    @property
    def num_rows(self) -> int:
        """Rows of that split."""
        return int(self.metrics["rows"][self.split])

    @property
    def data(self) -> Mapping[str, Any]:
        """The recipe's section ``data``."""
        section: Mapping[str, Any] = self.recipe.get("data") or {}
        return section

    @property
    def seed(self) -> int:
        """The seed of the student's training."""
        return int((self.recipe.get("training") or {}).get("seed", 0))

    @property
    def quality(self) -> float:
        """The student's score by the measure that counts."""
        return float(self.metrics["student"][self.metric])

    @cached_property
    def events(self) -> Mapping[str, Sequence[Line]]:
        """Events by training: ``student``, ``contrast``, ``teacher``, ... Raises `DataError`."""
        found = {"student": self.path / "events.jsonl"}
        found |= {path.name.removeprefix("events.").removesuffix(".jsonl"): path
                  for path in sorted(self.path.glob("events.*.jsonl"))}
        return {name: list(_lines(path)) for name, path in found.items() if path.exists()}

    def validation_scores(self, training: str = "student") -> list[tuple[int, float]]:
        """Step and validation score of each evaluation in a training, by the measure that counts."""
        return [(event["step"], float(event["metrics"][self.metric])) for event in self.events.get(training, ())
                if event.get("event") == "evaluation" and self.metric in event.get("metrics", {})]

    @cached_property
    def export(self) -> Mapping[str, Any] | None:
        """What was measured of the student as ONNX; None if it was not exported. Raises `DataError`."""
        path = self.path / _EXPORT
        if not path.exists():
            return None
        try:
            found = json.loads(_text(path))
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}; export the run again") from error
        missing = [name for name in ("metric", "rows", "parity", "metrics", "latency")
                   if not isinstance(found, Mapping) or name not in found]
        if missing:
            raise DataError(f"{path} has no {', '.join(missing)}, so it is not the result of an export; export the run "
                            "again")
        export: Mapping[str, Any] = found
        return export

    @cached_property
    def predictions(self) -> Sequence[Line]:
        """What was said of each row of the split; empty where that was not kept. Raises `DataError`."""
        path = self.path / _PREDICTIONS
        lines = list(_lines(path)) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            if line.get("student") is None:
                raise DataError(f"{path}, line {number} has no answer of the student; each line is an object with "
                                "row, inputs, label, teacher and student")
        return lines


def read_run(path: Path) -> RunFiles:
    """The run in a folder. Raises `ConfigError` if there is none, or none that is finished, `DataError` for damage."""
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}; give a run folder, the output of a recipe (a relative one is "
                          f"looked up from {Path.cwd()})")
    if not (path / _RECIPE).exists():
        raise ConfigError(f"{path} is no run folder, for it holds no {_RECIPE}; give the output of a recipe, or a "
                          "folder with such folders inside")
    if not (path / _METRICS).exists():
        raise ConfigError(f"the run in {path} is not finished; go on with it by stillhouse run RECIPE --resume")
    text = _text(path / _RECIPE)
    try:
        recipe, metrics = yaml.safe_load(text), json.loads(_text(path / _METRICS))
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{path}: {_RECIPE} or {_METRICS} cannot be read: {error}; run the recipe again") from error
    missing = [name for name in ("task", "metric", "split", "rows", "student")
               if not isinstance(metrics, Mapping) or name not in metrics]
    if missing or not isinstance(recipe, Mapping):
        raise DataError(f"{path / _METRICS} has no {', '.join(missing) or 'recipe'}, so it is not the result of a run; "
                        "run the recipe again")
    return RunFiles(path, recipe, text, metrics)


def find_runs(path: Path) -> list[RunFiles]:
    """The run in a folder, or every finished one below it: seeds, stages, or runs that somebody put side by side.

    Raises `ConfigError` if there is none, `DataError` for a run that cannot be read.
    """
    found, unfinished = _below(path, _DEPTH) if path.is_dir() else ([], [])
    if found:
        return [read_run(run) for run in found]
    return [read_run(unfinished[0] if unfinished else path)]


def _below(path: Path, depth: int) -> tuple[list[Path], list[Path]]:
    """Folders of finished and of unfinished runs, in the order people count in: seed-2 before seed-10."""
    stages = _stages(path) if (path / _RECIPE).exists() else []
    if (path / _RECIPE).exists() and not stages:
        return ([path], []) if (path / _METRICS).exists() else ([], [path])
    finished: list[Path] = []
    unfinished: list[Path] = []
    for folder in (_folders_of(path, stages) if stages else _folders_in(path)) if depth else ():
        done, begun = _below(folder, depth - 1)
        finished += done
        unfinished += begun
    return finished, unfinished


def _folders_in(path: Path) -> list[Path]:
    return sorted((folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")
                   and folder.name not in _NO_RUNS_INSIDE), key=_natural)


def _folders_of(path: Path, stages: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Those that a run's stages have written, which may lie elsewhere."""
    return [folder for stage in stages if (folder := stage_folder(path, stage)) is not None]


def _stages(path: Path) -> list[Mapping[str, Any]]:
    """What the recipe of a run says of its stages; nothing if it has none, or cannot be read."""
    try:
        recipe = yaml.safe_load(_text(path / _RECIPE))
    except yaml.YAMLError:
        return []
    return list(recipe.get("stages") or ()) if isinstance(recipe, Mapping) else []


def _natural(path: Path) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in _NUMBERS.split(path.name)]


def _lines(path: Path) -> Iterator[Line]:
    for number, text in enumerate(_text(path).split("\n"), start=1):  # other line ends may stand inside a text
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}; take the file away to do without it, or run "
                            "the recipe again") from error
        if not isinstance(line, Mapping):
            raise DataError(f"{path}, line {number}: expected an object, found {type(line).__name__}; take the file "
                            "away to do without it, or run the recipe again")
        yield line


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; run the recipe again") from error
