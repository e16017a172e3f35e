"""The run folder: who may write into it, and what lies where.

    recipe.yaml            the recipe, defaults filled in
    plugins.json           the SHA-256 of each of the recipe's plugin files, if it has any; a resume needs the same
    events.jsonl           what happened while the student was trained (events.teacher.jsonl, events.contrast.jsonl)
    checkpoints/gs*        the student's; checkpoints/teacher and checkpoints/contrast
    student/               the best student and its tokenizer, for ``from_pretrained``
    predictions.jsonl      what teacher and student say of every example of the reported split, a line of JSON each
                           (see `stillhouse.recipe.predictions`); not in a masked-lm run
    metrics.json           the results
    report.html            the same as a page; student/README.md is the student's card
    onnx/                  what ``stillhouse export`` wrote
    tensorboard/, wandb/   what the trackers of those names wrote; trackers.json has the ids of runs elsewhere
    profile/               profile.json and trace.json, if the run was started with --profile

A run is finished when its results are there. Among these are ``label_names`` (empty where answers are no labels), and
of teacher and student the quality on the reported split, ``parameters``, ``size_bytes``, ``latency_ms`` of one row,
``throughput_rows_per_s`` and ``latency_by_batch``: ``{"1": {"ms": 4.1, "rows_per_s": 243.9}, "8": ..., "32": ...}``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse import plugins
from stillhouse.errors import CheckpointError, ConfigError
from stillhouse.recipe import yaml_files
from stillhouse.recipe.fitting import Phase
from stillhouse.recipe.schema import Recipe
from stillhouse.sections.flat import flattened
from stillhouse.tasks.pretrained import save_pretrained
from stillhouse.training import distributed
from stillhouse.training.checkpoint import steps
from stillhouse.training.events import Sink
from stillhouse.whole_files import write_json, write_text, written_whole

_MAY_CHANGE = {"output", "name", "cache", "trackers", "training.log_every", "teacher.train.log_every"}
"""What a resumed run may have otherwise than when it was started."""

_PLUGINS = "plugins.json"
_WRITTEN = ("recipe.yaml", _PLUGINS, "events*.jsonl", "checkpoints", "student", "predictions.jsonl", "metrics.json",
            "report.html", "onnx", "profile", "tensorboard", "trackers.json", "wandb", ".writing-*")


class RunFolder:
    """One run's folder. Making this object writes nothing.

    Raises `ConfigError` if something is there that this run may not go on with or replace.
    """

    def __init__(self, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
        self.path = Path(recipe.output).expanduser()
        self.recipe, self.resume, self.overwrite = recipe, resume, overwrite
        if resume and overwrite:
            raise ConfigError("give --resume or --overwrite, not both")
        try:
            self._check()
        except OSError as error:
            raise _not_usable(self.path, error) from error

    @property
    def metrics_path(self) -> Path:
        """The results."""
        return self.path / "metrics.json"

    @property
    def predictions_path(self) -> Path:
        """What teacher and student say of each example."""
        return self.path / "predictions.jsonl"

    @property
    def student_dir(self) -> Path:
        """The finished student."""
        return self.path / "student"

    @property
    def profile_dir(self) -> Path:
        """What was measured of the student's training."""
        return self.path / "profile"

    @property
    def is_finished(self) -> bool:
        """Whether the results are there."""
        return self.metrics_path.exists()

    def metrics(self) -> dict[str, Any]:
        """The results of a finished run. Raises `CheckpointError` if they cannot be read."""
        try:
            values: dict[str, Any] = json.loads(self.metrics_path.read_text(encoding="utf-8"))
            return values
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.metrics_path} cannot be read: {error}") from error

    def phase(self, name: str, sinks: list[Sink]) -> Phase:
        """Where one training keeps its things: ``"student"``, ``"contrast"``, ``"teacher"`` or ``"teacher-0"``, ..."""
        own = name == "student"
        checkpoints = self.path / "checkpoints"
        return Phase(checkpoints if own else checkpoints / name,
                     self.path / ("events.jsonl" if own else f"events.{name}.jsonl"), self.resume, sinks)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The folder with its recipe inside. After an error it is removed again if it holds nothing to go on from."""
        distributed.wait_for_all()  # until every rank has seen the folder as it was
        absent = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            if distributed.is_main():
                self._begin()
            distributed.wait_for_all()
            yield
        except Exception:
            if distributed.is_main() and not self._has_checkpoints():
                with suppress(OSError):  # what went wrong first is what the user has to know
                    self._remove(absent)
            raise

    def save_student(self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write aside, then rename."""
        aside = self.path / ".writing-student"
        shutil.rmtree(aside, ignore_errors=True)
        save_pretrained(student, tokenizer, aside)
        shutil.rmtree(self.student_dir, ignore_errors=True)
        os.replace(aside, self.student_dir)

    def save_predictions(self, lines: Iterable[str]) -> None:
        """Write them, as a whole or not at all."""
        with written_whole(self.predictions_path) as aside, aside.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def save_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write them; the run is finished."""
        write_json(self.metrics_path, metrics)

    def forget(self, name: str) -> None:
        """Remove a training's checkpoints, which nothing needs any more; how long it took stays known."""
        folder = self.phase(name, []).checkpoints_dir
        if distributed.is_main() and folder.is_dir():
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)

    def _check(self) -> None:
        above = next((folder for folder in self.path.parents if folder.exists()), Path())
        if not above.is_dir():
            raise ConfigError(f"output: {self.path} cannot be made, for {above} is a file; name another folder")
        if not self.path.exists():
            return
        if Path.cwd().resolve().is_relative_to(self.path.resolve()):
            raise ConfigError(f"output: {str(self.path)!r} is the current directory or holds it; name a folder inside, "
                              "as in output: runs/first")
        if not self.path.is_dir():
            raise ConfigError(f"output: {self.path} is a file; name a folder")
        if not any(self.path.iterdir()):
            return
        foreign = sorted(path.name for path in self.path.iterdir() if not _is_a_runs(path.name))
        if not (self.path / "recipe.yaml").exists() or (foreign and not self.resume):
            raise ConfigError(f"output: {self.path} holds what no run has written ({', '.join(foreign[:5])}); name "
                              "another folder, or move that away")
        if self.overwrite:
            return
        if not self.resume:
            state, remedy = ("a finished", "--resume to see its results") if self.is_finished else (
                "an unfinished", "--resume to go on with it")
            raise ConfigError(f"output: {self.path} holds {state} run; give {remedy}, --overwrite to start afresh, or "
                              "another folder as output")
        self._require_same_recipe()
        self._require_same_plugins()

    def _require_same_recipe(self) -> None:
        then = flattened(yaml_files.read(self.path / "recipe.yaml"))
        now = flattened(self.recipe.as_dict())
        different = [f"{key} ({then.get(key, 'not given')} then, {now.get(key, 'not given')} now)"
                     for key in sorted(then.keys() | now.keys())
                     if then.get(key) != now.get(key) and key not in _MAY_CHANGE]
        if different:
            raise ConfigError(f"the run in {self.path} was started with another recipe: {'; '.join(different)}. Set "
                              "the same values to go on, give --overwrite to start afresh, or another folder as output")

    def _require_same_plugins(self) -> None:
        path = self.path / _PLUGINS
        if not path.exists():
            return
        try:
            then: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} cannot be read: {error}; bring it back, or give --overwrite to start "
                                  "afresh") from error
        now = plugins.digests(self.recipe.plugins)
        changed = [file for file, digest in then.items() if now.get(file) != digest]
        if changed:
            raise ConfigError(f"plugins: {', '.join(changed)}: not the same as when the run in {self.path} was "
                              "started; bring the old content back to go on, give --overwrite to start afresh, or "
                              "another folder as output")

    def _begin(self) -> None:
        try:
            if self.overwrite:
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            write_recipe(self.path, self.recipe)
            if self.recipe.plugins:
                write_json(self.path / _PLUGINS, plugins.digests(self.recipe.plugins))
        except OSError as error:
            raise _not_usable(self.path, error) from error

    def _remove(self, absent: Sequence[Path]) -> None:
        """Remove what this run wrote, and the folders made for it."""
        self._clear()
        for folder in absent:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for path in self.path.iterdir() if self.path.exists() else ():
            if path.is_dir() and _is_a_runs(path.name):
                shutil.rmtree(path)
            elif _is_a_runs(path.name):
                path.unlink()

    def _has_checkpoints(self) -> bool:
        checkpoints = self.path / "checkpoints"
        inside = [path for path in checkpoints.iterdir() if path.is_dir()] if checkpoints.is_dir() else []
        return any(steps(folder) for folder in [checkpoints, *inside])


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.yaml`` with the defaults filled in."""
    write_text(folder / "recipe.yaml", yaml_files.dump(recipe.as_dict()))


def _not_usable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"output: {path} cannot be used: {error.strerror or error}; name another folder, or mend that")


def _is_a_runs(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _WRITTEN)
