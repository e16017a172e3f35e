"""Promises of trackers in a run: they show what events.jsonl and metrics.json say, and are closed whatever happens."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe, plan, run
from stillhouse.recipe.tracking import TrackedRun
from stillhouse.training import Sink
from stillhouse.training.events import CheckpointSaved, Event

from .conftest import MakeRecipe

pytestmark = pytest.mark.runs

Curves = dict[str, dict[int, float]]
PHASES = {"student": "events.jsonl", "teacher": "events.teacher.jsonl", "contrast": "events.contrast.jsonl"}


class Stop(Sink):
    """Raises when the student's first checkpoint is told."""

    def __init__(self, error: BaseException, at_step: int = 6) -> None:
        self.error, self.at_step, self.total_steps = error, at_step, 0

    def emit(self, event: Event) -> None:
        self.total_steps = getattr(event, "total_steps", self.total_steps)
        if isinstance(event, CheckpointSaved) and event.step == self.at_step and self.total_steps == 12:
            raise self.error


def curves_of_events(output: Path, phase: str) -> Curves:
    """The curves that a phase's log of events makes, under the names that trackers give them."""
    curves: Curves = {}
    for line in (output / PHASES[phase]).read_text().splitlines():
        event = json.loads(line)
        numbers: dict[str, float] = {}
        if event["event"] == "step":
            numbers = {"loss": event["loss"], "learning_rate": event["learning_rate"], "epoch": event["epoch"],
                       "gradient_norm": event["gradient_norm"], "steps_per_s": event["steps_per_s"],
                       **{f"losses/{name}": value for name, value in event["parts"].items()}}
        elif event["event"] == "evaluation":
            numbers = {f"evaluation/{name}": value for name, value in event["metrics"].items()}
        for name, value in numbers.items():
            curves.setdefault(f"{phase}/{name}", {})[event["step"]] = value
    return curves


def results_of(output: Path) -> dict[str, float]:
    """The numbers of metrics.json by their path."""
    found: dict[str, float] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                visit(item, f"{path}/{name}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[path] = value

    visit(json.loads((output / "metrics.json").read_text()), "results")
    return found


# MLflow, in a folder.


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    return MlflowClient()


def only_mlflow_run(client: Any, experiment: str = "stillhouse") -> Any:
    (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return found


def mlflow_curves(client: Any, run_id: str) -> Curves:
    names = client.get_run(run_id).data.metrics
    return {name: {metric.step: metric.value for metric in client.get_metric_history(run_id, name)}
            for name in names if not name.startswith("results/")}


def test_mlflow_shows_the_events_of_every_training_and_the_results(
    make_recipe: MakeRecipe, mlflow_client: Any, console: Console
) -> None:
    result = run(Recipe.from_dict(make_recipe(trackers="mlflow", contrast="no_teacher")), console=console)
    found = only_mlflow_run(mlflow_client)
    expected = {name: values for phase in PHASES for name, values in curves_of_events(result.output, phase).items()}
    shown = mlflow_curves(mlflow_client, found.info.run_id)
    assert shown == expected
    assert {name.partition("/")[0] for name in shown} == set(PHASES) and "student/losses/hidden_mse 4-2" in shown
    results = {name: value for name, value in found.data.metrics.items() if name.startswith("results/")}
    assert results == pytest.approx(results_of(result.output))
    assert results["results/student/accuracy"] == result.metrics["student"]["accuracy"]
    assert found.info.status == "FINISHED" and found.info.run_name == "/".join(result.output.parts[-2:])
    assert found.data.params["training.learning_rate"] == "0.002" and found.data.params["task"] == "text-classification"
    assert found.info.run_id in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "KILLED"), (RuntimeError("lost"), "FAILED")])
def test_a_resumed_run_goes_on_in_the_same_mlflow_run(
    make_recipe: MakeRecipe, mlflow_client: Any, console: Console, monkeypatch: pytest.MonkeyPatch,
    error: BaseException, status: str,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    recipe = Recipe.from_dict(make_recipe(trackers=["mlflow"]))
    with pytest.raises(type(error)):
        run(recipe, console=console, sinks=[Stop(error)])
    begun = only_mlflow_run(mlflow_client, "mine")
    assert begun.info.status == status
    before = mlflow_curves(mlflow_client, begun.info.run_id)
    assert set(before["student/loss"]) == {2, 4, 6}
    log_every = make_recipe(trackers=["mlflow"], training={"log_every": 3})  # which is another value than then
    result = run(Recipe.from_dict(log_every), resume=True, console=console)
    found = only_mlflow_run(mlflow_client, "mine")
    assert found.info.run_id == begun.info.run_id and found.info.status == "FINISHED"
    shown = mlflow_curves(mlflow_client, found.info.run_id)
    assert shown == {name: values for phase in ("student", "teacher")
                     for name, values in curves_of_events(result.output, phase).items()}


def test_a_run_that_mlflow_has_lost_gets_another(
    make_recipe: MakeRecipe, mlflow_client: Any, console: Console
) -> None:
    recipe = Recipe.from_dict(make_recipe(trackers=["mlflow"]))
    with pytest.raises(KeyboardInterrupt):
        run(recipe, console=console, sinks=[Stop(KeyboardInterrupt())])
    ids = json.loads((Path(recipe.output) / "trackers.json").read_text())
    (Path(recipe.output) / "trackers.json").write_text(json.dumps({**ids, "mlflow": "0" * 32}))
    run(recipe, resume=True, console=console)
    runs = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("stillhouse").experiment_id])
    assert {found.info.status for found in runs} == {"KILLED", "FINISHED"}


def test_an_overwritten_run_is_another_one_for_mlflow(
    make_recipe: MakeRecipe, mlflow_client: Any, console: Console
) -> None:
    recipe = Recipe.from_dict(make_recipe(trackers=["mlflow", "tensorboard"], training={"epochs": 1}))
    for _ in range(2):
        run(recipe, console=console, overwrite=True)
    runs = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("stillhouse").experiment_id])
    assert len(runs) == 2
    assert len(list((Path(recipe.output) / "tensorboard" / "student").iterdir())) == 1


def test_a_server_that_cannot_be_reached_is_an_error_before_training(
    make_recipe: MakeRecipe, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    recipe = Recipe.from_dict(make_recipe(trackers=["tensorboard", "mlflow"]))
    with pytest.raises(ConfigError, match=r"trackers: mlflow cannot start .*127.0.0.1.*; set MLFLOW_TRACKING_URI to a "
                                          r"server .*MLFLOW_TRACKING_URI=file:./mlruns with MLFLOW_ALLOW_FILE_STORE"):
        run(recipe, console=console)
    assert not Path(recipe.output).exists()


# W&B, offline.


@pytest.fixture
def wandb_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path / "w"), "WANDB_SILENT": "true",
                        "WANDB_CONFIG_DIR": str(tmp_path / "config"), "WANDB_CACHE_DIR": str(tmp_path / "wc")}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "w").mkdir()
    return tmp_path / "w" / "wandb"


def wandb_records(path: Path) -> Iterator[Any]:
    """What is in a file of W&B: protocol buffers in LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    place, parts = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", content[place + 4:place + 7])
        parts += content[place + 7:place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def finished_records(path: Path) -> list[Any]:
    """The same of a run that has been finished, whose last records W&B's own process may still be writing."""
    for _ in range(100):
        records = list(wandb_records(path))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError("the run was never finished")


def wandb_curves(records: list[Any]) -> Curves:
    curves: Curves = {}
    for record in records:
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in row.items():
            phase = name.partition("/")[0]
            if phase in PHASES and name != f"{phase}/step":
                curves.setdefault(name, {})[row[f"{phase}/step"]] = value
    return curves


def test_wandb_shows_the_events_of_every_training_and_the_results(
    make_recipe: MakeRecipe, wandb_dir: Path, console: Console
) -> None:
    result = run(Recipe.from_dict(make_recipe(trackers=["wandb"], contrast="no_teacher")), console=console)
    (path,) = wandb_dir.glob("offline-run-*/run-*.wandb")
    records = finished_records(path)
    expected = {name: values for phase in PHASES for name, values in curves_of_events(result.output, phase).items()}
    assert wandb_curves(records) == expected
    (begun,) = (record.run for record in records if record.HasField("run"))
    assert begun.project == "stillhouse" and begun.display_name == "/".join(result.output.parts[-2:])
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert config["training"]["learning_rate"] == 2e-3 and config["task"] == "text-classification"
    summary = {item.key or "/".join(item.nested_key): json.loads(item.value_json)
               for record in records for item in record.summary.update}
    assert {name: summary[name] for name in results_of(result.output)} == pytest.approx(results_of(result.output))
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]
    assert json.loads((result.output / "trackers.json").read_text()) == {"wandb": begun.run_id}
    assert str(path.parent) in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_failed_wandb_run_says_so_and_a_resumed_one_keeps_its_id(
    make_recipe: MakeRecipe, wandb_dir: Path, console: Console
) -> None:
    recipe = Recipe.from_dict(make_recipe(trackers=["wandb"]))
    with pytest.raises(RuntimeError, match="lost"):
        run(recipe, console=console, sinks=[Stop(RuntimeError("lost"))])
    (first,) = wandb_dir.glob("offline-run-*/run-*.wandb")
    before = finished_records(first)
    assert [record.exit.exit_code for record in before if record.HasField("exit")] == [1]
    time.sleep(1.1)  # its folders are named by seconds
    result = run(recipe, resume=True, console=console)
    (second,) = set(wandb_dir.glob("offline-run-*/run-*.wandb")) - {first}
    after = finished_records(second)
    assert len({record.run.run_id for record in (*before, *after) if record.HasField("run")}) == 1
    both = wandb_curves(before)
    for name, values in wandb_curves(after).items():
        both.setdefault(name, {}).update(values)
    assert both == {name: values for phase in ("student", "teacher")
                    for name, values in curves_of_events(result.output, phase).items()}


# TensorBoard, and all of them.


def test_tensorboard_lies_in_the_run_folder(make_recipe: MakeRecipe, console: Console) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(Recipe.from_dict(make_recipe(trackers=["tensorboard"])), console=console)
    for phase in ("student", "teacher"):
        found = EventAccumulator(str(result.output / "tensorboard" / phase)).Reload()
        shown = {scalar.step: scalar.value for scalar in found.Scalars("scalar/total_loss")}
        assert shown == pytest.approx(curves_of_events(result.output, phase)[f"{phase}/loss"])
    results = EventAccumulator(str(result.output / "tensorboard" / "results")).Reload()
    assert results.Scalars("results/student/accuracy")[0].value == pytest.approx(result.metrics["student"]["accuracy"])
    assert run(Recipe.from_dict(make_recipe()), console=console, overwrite=True).output == result.output
    assert not (result.output / "tensorboard").exists()


def test_trackers_change_nothing_that_is_learned(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console, wandb_dir: Path, mlflow_client: Any
) -> None:
    all_of_them = ["tensorboard", "wandb", "mlflow"]
    results = [run(Recipe.from_dict(make_recipe(trackers=names, output=str(tmp_path / str(len(names))))),
                   console=console) for names in ([], all_of_them)]
    plain, tracked = ((result.output / "student" / "model.safetensors").read_bytes() for result in results)
    assert plain == tracked


def test_a_tracker_may_be_added_to_a_run_that_goes_on(make_recipe: MakeRecipe, console: Console) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Recipe.from_dict(make_recipe()), console=console, sinks=[Stop(KeyboardInterrupt())])
    result = run(Recipe.from_dict(make_recipe(trackers=["tensorboard"])), resume=True, console=console)
    assert list((result.output / "tensorboard" / "student").iterdir())


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(
    make_recipe: MakeRecipe, console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    find = importlib.util.find_spec
    folder_only = importlib.machinery.ModuleSpec(name, None, is_package=True)  # such as ./wandb, which wandb writes
    recipe = Recipe.from_dict(make_recipe(trackers=[name], data={"train": str(tmp_path / "nothing.csv")}))
    for spec in (None, folder_only):
        monkeypatch.setattr(importlib.util, "find_spec",
                            lambda wanted, *args, found=spec: found if wanted == name else find(wanted, *args))
        for carry_out in (plan, run):
            with pytest.raises(ConfigError, match=rf'trackers: {name} is not installed; .*"stillhouse\[{name}\]"'):
                carry_out(recipe)
    assert not Path(recipe.output).exists()


def test_unknown_trackers_and_twice_the_same_are_refused(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=r"trackers.0: 'wandbb' is not one of 'tensorboard', 'wandb' or 'mlflow'"):
        Recipe.from_dict(make_recipe(trackers=["wandbb"]))
    with pytest.raises(ConfigError, match=r"trackers: \[wandb, wandb\]: name each once"):
        Recipe.from_dict(make_recipe(trackers=["wandb", "wandb"]))


def test_nothing_of_trackers_is_imported_unless_asked_for(make_recipe: MakeRecipe, console: Console) -> None:
    loaded = set(sys.modules) & {"wandb", "mlflow"}
    run(Recipe.from_dict(make_recipe(training={"epochs": 1})), console=console)
    assert set(sys.modules) & {"wandb", "mlflow"} == loaded


@pytest.mark.parametrize(("folder", "name"), [("/a/runs/first", "runs/first"), ("/first", "first")])
def test_a_run_is_called_like_its_folder_and_the_one_above(folder: str, name: str) -> None:
    assert TrackedRun(Path(folder), {}).name == name
