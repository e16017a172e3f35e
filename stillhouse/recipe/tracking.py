"""The trackers that a recipe names: opened before the first phase, told of every training, closed whatever happens.

    tensorboard   below OUTPUT/tensorboard, a folder for each training
    wandb         one W&B run, in the project $WANDB_PROJECT or "stillhouse"; its files are below $WANDB_DIR or OUTPUT
    mlflow        one MLflow run, in the experiment $MLFLOW_EXPERIMENT_NAME or "stillhouse", at $MLFLOW_TRACKING_URI

A run of W&B or MLflow is named like the run folder and the one above it, holds the recipe's values, and curves named
``student/loss``, ``teacher/loss`` and so on. The numbers of ``metrics.json`` are written to it in the end. Its id is
kept in ``OUTPUT/trackers.json``, so that a resumed run goes on in it; what had been shown after the last checkpoint is
then shown a second time. (Offline, W&B begins another folder with the same id.)
"""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from stillhouse.errors import ConfigError
from stillhouse.recipe.schema import Recipe
from stillhouse.sections.flat import flattened
from stillhouse.training import MLflowSink, Sink, TensorBoardSink, WandbSink, distributed
from stillhouse.training.trackers import Dispensable, log_metrics, mlflow_name, survived
from stillhouse.whole_files import write_json

Outcome = Literal["finished", "failed", "interrupted"]

TRACKERS_FILE, TENSORBOARD_DIR = "trackers.json", "tensorboard"
_HOUSE = "stillhouse"
_LONGEST_VALUE, _MOST_VALUES = 500, 100  # of MLflow's parameters, and of a request with them
_MLFLOW_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


@final
@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run at its start.

    Attributes:
        folder: the run folder.
        values: the recipe's values, defaults filled in.
        earlier_id: what the tracker calls this run, if it was begun before.
    """

    folder: Path
    values: Mapping[str, Any]
    earlier_id: str | None = None

    @property
    def name(self) -> str:
        """The last two folders of its path: ``runs/my-student``, ``my-student/seed-0``."""
        return "/".join(part for part in self.folder.absolute().parts[-2:] if part != os.sep)


class Tracker(abc.ABC):
    """One run as one service or folder shows it. Abstract."""

    run_id: str | None = None
    """By what a later process finds the run again; None if that needs nothing."""
    place: str
    """Where people look at it."""

    @abc.abstractmethod
    def sink(self, phase: str) -> Sink:
        """What draws the curves of one training: ``"student"``, ``"teacher"``, ``"contrast"``, ..."""

    @abc.abstractmethod
    def show_results(self, results: Mapping[str, float]) -> None:
        """Take the final numbers, by names such as ``results/student/accuracy``."""

    @abc.abstractmethod
    def close(self, outcome: Outcome) -> None:
        """Called once, however the run ended."""


@final
class TensorBoardTracker(Tracker):
    """Files below ``OUTPUT/tensorboard``; recipe and results appear under HPARAMS."""

    def __init__(self, run: TrackedRun) -> None:
        self._folder, self._values = run.folder / TENSORBOARD_DIR, run.values
        self.place = f"tensorboard --logdir {self._folder}"

    def sink(self, phase: str) -> Sink:
        return TensorBoardSink(self._folder / phase)

    def show_results(self, results: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        plain = {name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
                 for name, value in flattened(self._values).items()}
        with SummaryWriter(str(self._folder / "results")) as writer:
            writer.add_hparams(plain, dict(results), run_name=".")

    def close(self, outcome: Outcome) -> None:
        pass


@final
class WandbTracker(Tracker):
    """A run of Weights & Biases."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _HOUSE, name=os.environ.get("WANDB_NAME") or run.name,
            dir=os.environ.get("WANDB_DIR") or str(run.folder), config=dict(run.values), id=run.earlier_id,
            resume=None if run.earlier_id is None else "allow", reinit="create_new",
            settings=wandb.Settings(console="off"))
        self.run_id = str(self._run.id)
        self.place = self._run.url or f"{Path(self._run.dir).parent}, to be sent by `wandb sync`"

    def sink(self, phase: str) -> Sink:
        return WandbSink(self._run, f"{phase}/")

    def show_results(self, results: Mapping[str, float]) -> None:
        self._run.summary.update(dict(results))

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=0 if outcome == "finished" else 1)


@final
class MLflowTracker(Tracker):
    """A run of MLflow."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow.tracking import MlflowClient

        with _few_retries():
            self._client = MlflowClient()
            self._id = self._begun_before(run.earlier_id) or self._begin(run)
        self.run_id = self._id
        self.place = f"run {self._id} at {self._client.tracking_uri}"

    def sink(self, phase: str) -> Sink:
        return MLflowSink(self._client, self._id, f"{phase}/")

    def show_results(self, results: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(mlflow_name(name), value, now_ms, 0) for name, value in results.items()]
        log_metrics(self._client, self._id, metrics)

    def close(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, {"finished": "FINISHED", "failed": "FAILED",
                                            "interrupted": "KILLED"}[outcome])

    def _begun_before(self, run_id: str | None) -> str | None:
        """The run of that id, running again; None if there is none any more."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run_id

    def _begin(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _HOUSE
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not experiment_id:
            there = self._client.get_experiment_by_name(name)
            experiment_id = self._client.create_experiment(name) if there is None else there.experiment_id
        run_id = str(self._client.create_run(experiment_id, run_name=run.name).info.run_id)
        values = [Param(mlflow_name(key), str(value)[:_LONGEST_VALUE]) for key, value in flattened(run.values).items()]
        try:
            for first in range(0, len(values), _MOST_VALUES):
                self._client.log_batch(run_id, params=values[first:first + _MOST_VALUES], synchronous=True)
        except Exception:
            with suppress(Exception):  # the first one is told
                self._client.set_terminated(run_id, "FAILED")
            raise
        return run_id


@dataclass(frozen=True)
class _Kind:
    """How a tracker is opened, the module that it needs, how that is installed, and what usually is wrong."""

    open: Callable[[TrackedRun], Tracker]
    module: str
    install: str
    remedy: str


_KINDS: Mapping[str, _Kind] = {
    "tensorboard": _Kind(TensorBoardTracker, "tensorboard", "pip install tensorboard", "see that the disk has room"),
    "wandb": _Kind(WandbTracker, "wandb", 'pip install "stillhouse[wandb]"',
                   "log in with `wandb login`, or set WANDB_MODE=offline to send the run later"),
    "mlflow": _Kind(MLflowTracker, "mlflow", 'pip install "stillhouse[mlflow]"',
                    "set MLFLOW_TRACKING_URI to a server that runs; without one, to a folder, as in "
                    "MLFLOW_TRACKING_URI=file:./mlruns with MLFLOW_ALLOW_FILE_STORE=true, or install all of it with "
                    "`pip install mlflow`, which brings a local database"),
}


def require_trackers(names: Sequence[str]) -> None:
    """Raise `ConfigError` for a tracker whose package is not installed. Nothing is imported."""
    for name in names:
        kind = _KINDS[name]
        spec = importlib.util.find_spec(kind.module)
        if spec is None or spec.origin is None:  # a folder ./wandb, which wandb leaves behind, would do for a package
            raise ConfigError(f"trackers: {name} is not installed; install it with {kind.install}, or leave it out")


@final
@dataclass(frozen=True)
class Trackers:
    """The trackers of a run, by name; none on other ranks than the first."""

    by_name: Mapping[str, Tracker] = field(default_factory=dict)

    def sinks(self, phase: str) -> list[Sink]:
        """What draws the curves of one training. A tracker that fails there is no reason to stop."""
        found: list[Sink] = []
        for name, tracker in self.by_name.items():
            with survived(name):
                found.append(Dispensable(tracker.sink(phase), name))
        return found

    def show_results(self, metrics: Mapping[str, Any]) -> None:
        """Take what ``metrics.json`` says."""
        results = {f"results/{name.replace('.', '/')}": float(value) for name, value in flattened(metrics).items()
                   if isinstance(value, (int, float)) and not isinstance(value, bool)}
        for name, tracker in self.by_name.items():
            with survived(name):
                tracker.show_results(results)


@contextmanager
def opened_trackers(recipe: Recipe, folder: Path) -> Iterator[Trackers]:
    """The recipe's trackers, inside the run folder, which exists. Raises `ConfigError` for one that cannot start."""
    opened: dict[str, Tracker] = {}
    outcome: Outcome = "failed"
    try:
        if distributed.is_main():
            for wanted in recipe.trackers:
                opened[wanted] = _opened(wanted, recipe, folder)
        yield Trackers(opened)
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        for name, tracker in opened.items():
            with survived(name):
                tracker.close(outcome)


def _opened(name: str, recipe: Recipe, folder: Path) -> Tracker:
    kind, ids = _KINDS[name], _ids(folder)
    try:
        tracker = kind.open(TrackedRun(folder, recipe.as_dict(), ids.get(name)))
    except Exception as error:  # each has its own kinds of errors, with no common base
        message = " ".join(str(error).split())
        raise ConfigError(f"trackers: {name} cannot start ({type(error).__name__}: {message:.300}); {kind.remedy}, or "
                          "leave it out") from error
    if tracker.run_id is not None and tracker.run_id != ids.get(name):
        write_json(folder / TRACKERS_FILE, {**ids, name: tracker.run_id})
    return tracker


def _ids(folder: Path) -> dict[str, str]:
    """By what each tracker knows this run, if it was begun before."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / TRACKERS_FILE).read_text(encoding="utf-8"))
        return {str(name): str(run_id) for name, run_id in found.items()}
    return {}


@contextmanager
def _few_retries() -> Iterator[None]:
    """MLflow tries for minutes to reach a server; before training has begun it is better to know soon."""
    if _MLFLOW_RETRIES in os.environ:
        yield
        return
    os.environ[_MLFLOW_RETRIES] = "2"
    try:
        yield
    finally:
        del os.environ[_MLFLOW_RETRIES]
