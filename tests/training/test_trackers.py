"""Promises of the sinks that draw curves: they show the numbers of the events, and training does not depend on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse.training import MLflowSink, Sink, TensorBoardSink, WandbSink
from stillhouse.training.events import CheckpointSaved, Evaluated, Event, RunStarted, StepLogged
from stillhouse.training.trackers import Dispensable, mlflow_name, numbers_of

EVENTS = [
    RunStarted(0, total_steps=20),
    StepLogged(10, epoch=1, loss=0.5, parts={"kd": 0.25, "hidden_mse 3-1": 0.125}, learning_rate=0.1,
               gradient_norm=2.0, steps_per_s=7.0),
    Evaluated(10, metrics={"accuracy": 0.75}, best=True),
    CheckpointSaved(10, name="gs10"),
    StepLogged(20, epoch=1, loss=0.25, parts={"kd": 0.0625, "hidden_mse 3-1": 0.125}, learning_rate=0.05,
               steps_per_s=8.0),
]
SHOWN = {
    "loss": {10: 0.5, 20: 0.25}, "losses/kd": {10: 0.25, 20: 0.0625}, "losses/hidden_mse 3-1": {10: 0.125, 20: 0.125},
    "learning_rate": {10: 0.1, 20: 0.05}, "gradient_norm": {10: 2.0}, "epoch": {10: 1.0, 20: 1.0},
    "steps_per_s": {10: 7.0, 20: 8.0}, "evaluation/accuracy": {10: 0.75},
}


class FakeWandbRun:
    """Keeps what a W&B run is told."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.axes: dict[str, str | None] = {}

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)


class FakeMLflowClient:
    """Keeps what an MLflow client is told; ``before`` is called first, in the thread that tells."""

    def __init__(self, before: Callable[[], Any] = lambda: None) -> None:
        self.before = before
        self.requests: list[list[Any]] = []

    def log_batch(self, run_id: str, metrics: list[Any], synchronous: bool) -> None:
        assert run_id == "a run" and synchronous
        self.before()
        self.requests.append(list(metrics))

    def values(self) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for metric in (metric for request in self.requests for metric in request):
            found.setdefault(metric.key, {})[metric.step] = metric.value
        return found


def told(sink: Sink, events: list[Event] = EVENTS) -> None:
    for event in events:
        sink.emit(event)
    sink.close()


def test_wandb_is_told_every_number_against_the_step_of_its_own_training() -> None:
    run = FakeWandbRun()
    told(WandbSink(run, "student/"))
    assert run.axes == {"student/step": None, "student/*": "student/step"}
    found: dict[str, dict[int, float]] = {}
    for row in run.rows:
        step = int(row.pop("student/step"))
        for name, value in row.items():
            found.setdefault(name.removeprefix("student/"), {})[step] = value
    assert found == SHOWN


def test_mlflow_is_told_every_number_at_its_step() -> None:
    pytest.importorskip("mlflow")
    client = FakeMLflowClient()
    told(MLflowSink(client, "a run", "student/"))  # type: ignore[arg-type]
    assert client.values() == {f"student/{name}": values for name, values in SHOWN.items()}


def test_training_does_not_wait_for_mlflow_and_nothing_is_lost() -> None:
    pytest.importorskip("mlflow")
    may_go_on = threading.Event()
    client = FakeMLflowClient(before=lambda: may_go_on.wait(30))
    sink = MLflowSink(client, "a run")  # type: ignore[arg-type]
    started = time.monotonic()
    for step in range(1, 1001):
        sink.emit(StepLogged(step, loss=float(step), parts={"kd": 1.0}))
    assert not client.requests and time.monotonic() - started < 20
    may_go_on.set()
    sink.close()
    assert client.values()["loss"] == {step: float(step) for step in range(1, 1001)}
    assert max(map(len, client.requests)) <= 1000 and len(client.requests) < 20  # and not one request an event


def test_a_server_that_fails_is_told_nothing_more_and_training_goes_on() -> None:
    pytest.importorskip("mlflow")
    calls = []

    def fail() -> None:
        calls.append(1)
        raise OSError("no route\nto host")

    sink = Dispensable(MLflowSink(FakeMLflowClient(fail), "a run"), "mlflow")  # type: ignore[arg-type]
    sink.emit(EVENTS[1])
    with pytest.warns(UserWarning, match="mlflow has failed .* goes on: OSError: no route to host") as caught:
        while not caught:  # until its thread has failed, which the next event finds
            time.sleep(0.01)
            sink.emit(EVENTS[2])
    sink.emit(EVENTS[4])
    assert len(calls) == 1
    with pytest.warns(UserWarning, match="no route"):
        sink.close()


def test_any_sink_can_be_made_dispensable() -> None:
    class Broken(Sink):
        def __init__(self) -> None:
            self.closed = False

        def emit(self, event: Event) -> None:
            if event.step == 20:
                raise RuntimeError("full")
            assert event.step < 20, "it is told of nothing after its failure"

        def close(self) -> None:
            self.closed = True

    broken = Broken()
    sink = Dispensable(broken, "disk")
    sink.emit(StepLogged(10))
    with pytest.warns(UserWarning, match="disk has failed"):
        sink.emit(StepLogged(20))
    sink.emit(StepLogged(30))
    sink.close()
    assert broken.closed


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_no_failure_of_a_tracker(error: type[BaseException]) -> None:
    class Interrupted(Sink):
        def emit(self, event: Event) -> None:
            raise error

    with pytest.raises(error):
        Dispensable(Interrupted(), "disk").emit(StepLogged(10))


def test_tensorboard_shows_a_resumed_training_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told(TensorBoardSink(tmp_path), [RunStarted(0), *(StepLogged(step, loss=1.0) for step in (10, 20, 30))])
    time.sleep(1.1)  # files are read in the order of their names, which hold seconds
    told(TensorBoardSink(tmp_path), [RunStarted(10), *(StepLogged(step, loss=2.0) for step in (20, 30))])
    scalars = EventAccumulator(str(tmp_path)).Reload().Scalars("scalar/total_loss")
    assert [(scalar.step, scalar.value) for scalar in scalars] == [(10, 1.0), (20, 2.0), (30, 2.0)]


def test_only_steps_and_evaluations_have_numbers() -> None:
    assert numbers_of(RunStarted(5)) == numbers_of(CheckpointSaved(5)) == {}
    assert set(numbers_of(StepLogged(5))) == {"loss", "learning_rate", "epoch", "steps_per_s"}


@pytest.mark.parametrize(("name", "allowed"), [
    ("student/losses/hidden_mse 3-1", "student/losses/hidden_mse 3-1"),
    ("losses/bert.pooler>bert.pooler:cos", "losses/bert.pooler_bert.pooler_cos"),
])
def test_names_are_what_mlflow_takes(name: str, allowed: str) -> None:
    assert mlflow_name(name) == allowed
