"""Sinks for what draws curves: TensorBoard, Weights & Biases and MLflow.

They are told every ``log_every`` steps, of numbers that are on the CPU by then, and hand them to a thread or process
that writes or sends them, so that no step waits for a disk or a network. A service that fails is no reason to stop
training: `Dispensable` makes a warning of it. Runs of W&B and MLflow are opened and ended by whoever makes the sink.
"""

from __future__ import annotations

import contextlib
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, final

from stillhouse.training.events import Evaluated, Event, RunStarted, Sink, StepLogged

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

_MOST_WAITED_S = 60
_MOST_AT_ONCE = 1000
"""The numbers that MLflow takes in a request."""
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")
"""What MLflow does not take in a name on every system."""


def numbers_of(event: Event) -> dict[str, float]:
    """What an event adds to curves, by name: ``loss``, ``losses/TERM``, ``evaluation/METRIC`` and the like."""
    if isinstance(event, StepLogged):
        norm = {} if event.gradient_norm is None else {"gradient_norm": event.gradient_norm}
        return {"loss": event.loss, **{f"losses/{name}": value for name, value in event.parts.items()},
                "learning_rate": event.learning_rate, **norm, "epoch": float(event.epoch),
                "steps_per_s": event.steps_per_s}
    if isinstance(event, Evaluated):
        return {f"evaluation/{name}": value for name, value in event.metrics.items()}
    return {}


@final
class TensorBoardSink(Sink):
    """Scalars for TensorBoard below ``log_dir``: ``scalar/total_loss``, ``scalar/<term>``, ``evaluation/<metric>``.

    Where training goes on after a resume, TensorBoard no longer shows what was written after that step before.
    """

    def __init__(self, log_dir: str | Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._log_dir, self._make_writer = str(log_dir), SummaryWriter
        self._writer: SummaryWriter | None = None

    def emit(self, event: Event) -> None:
        if self._writer is None:
            resumed = isinstance(event, RunStarted) and event.step > 0
            self._writer = self._make_writer(self._log_dir, purge_step=event.step + 1 if resumed else None)
        if isinstance(event, StepLogged):
            scalars = {"total_loss": event.loss, "learning_rate": event.learning_rate, **event.parts}
            for name, value in scalars.items():
                self._writer.add_scalar(f"scalar/{name}", value, event.step)
        elif isinstance(event, Evaluated):
            for name, value in event.metrics.items():
                self._writer.add_scalar(f"evaluation/{name}", value, event.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@final
class WandbSink(Sink):
    """Curves in a W&B run that is open: `numbers_of` each event against ``step``.

    Args:
        run: what ``wandb.init`` returned. The sink does not finish it.
        prefix: before every name, such as ``"student/"``: trainings that share a run each count their own steps.
    """

    def __init__(self, run: Any, prefix: str = "") -> None:
        self._run, self._prefix = run, prefix
        run.define_metric(f"{prefix}step")
        run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")

    def emit(self, event: Event) -> None:
        numbers = numbers_of(event)
        if numbers:
            self._run.log({f"{self._prefix}{name}": value for name, value in {"step": event.step, **numbers}.items()})


@final
class MLflowSink(Sink):
    """Curves in an MLflow run: `numbers_of` each event at its step, sent by a thread, in order.

    Args:
        client: whose server the run is on.
        run_id: the run. The sink does not end it.
        prefix: before every name, such as ``"student/"``.
    """

    def __init__(self, client: MlflowClient, run_id: str, prefix: str = "") -> None:
        self._client, self._run_id, self._prefix = client, run_id, prefix
        self._waiting: SimpleQueue[list[Metric] | None] = SimpleQueue()
        self._failure: Exception | None = None
        self._thread: Thread | None = None

    def emit(self, event: Event) -> None:
        """Take one event. Raises what MLflow raised when it was sent earlier ones."""
        from mlflow.entities import Metric

        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            self._thread = Thread(target=self._send, name="to MLflow", daemon=True)
            self._thread.start()
        now_ms = int(time.time() * 1000)
        self._waiting.put([Metric(mlflow_name(f"{self._prefix}{name}"), value, now_ms, event.step)
                           for name, value in numbers_of(event).items()])

    def close(self) -> None:
        """Wait until all is sent. Raises what MLflow raises, and `TimeoutError` after a minute."""
        if self._thread is None:
            return
        self._waiting.put(None)
        self._thread.join(_MOST_WAITED_S)
        if self._thread.is_alive():
            raise TimeoutError(f"not everything could be sent within {_MOST_WAITED_S} s")
        if self._failure is not None:
            raise self._failure

    def _send(self) -> None:
        """In the thread: send all that waits at once, until the end is announced or it fails."""
        try:
            is_over = False
            while not is_over:
                batches = [self._waiting.get()]
                while not self._waiting.empty():
                    batches.append(self._waiting.get())
                is_over = None in batches
                metrics = [metric for batch in batches if batch is not None for metric in batch]
                log_metrics(self._client, self._run_id, metrics)
        except Exception as error:
            self._failure = error


def log_metrics(client: Any, run_id: str, metrics: Sequence[Any]) -> None:
    """Send metrics to MLflow, as many at once as it takes."""
    for first in range(0, len(metrics), _MOST_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[first:first + _MOST_AT_ONCE], synchronous=True)


def mlflow_name(name: str) -> str:
    """A name with what MLflow does not allow in one replaced."""
    return _NOT_IN_NAMES.sub("_", name)


@final
class Dispensable(Sink):
    """A sink that training can do without: once it fails, a warning says so and it is told nothing more."""

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink, self._name = sink, name
        self._has_failed = False

    def emit(self, event: Event) -> None:
        if not self._has_failed:
            with self._survived():
                self._sink.emit(event)

    def close(self) -> None:
        with self._survived():
            self._sink.close()

    @contextlib.contextmanager
    def _survived(self) -> Iterator[None]:
        with survived(self._name) as failures:
            yield
        self._has_failed |= bool(failures)


@contextlib.contextmanager
def survived(name: str) -> Iterator[list[Exception]]:
    """Make a warning of what a tracker raises inside; the list that is given holds it then."""
    failures: list[Exception] = []
    try:
        yield failures
    except Exception as error:
        failures.append(error)
        warnings.warn(f"{name} has failed and shows no more of this training, which goes on: {type(error).__name__}: "
                      f"{' '.join(str(error).split())}", stacklevel=4)
