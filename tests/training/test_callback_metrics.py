"""What a callback returns: numbers are kept, through an interruption too, and nothing it returns stops training."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.training import (
    Bundle,
    Evaluation,
    EverySteps,
    FitOptions,
    FitResult,
    JsonLinesSink,
    LoaderSource,
    Sink,
    fit,
)
from stillhouse.training.events import StepLogged

from .resumable import StopAt
from .toy import make_plan, split

NORM = Evaluation(lambda student: {"norm": float(student.out.detach().norm())}, "norm")


def train(folder: Path | None, callback: Callable[..., Any], stop_at: int = 0, **options: Any) -> FitResult:
    """Six steps, a checkpoint after every second."""
    plan = make_plan()
    stop = StopAt(stop_at, kind=StepLogged)
    sinks: list[Sink] = [] if folder is None else [JsonLinesSink(folder / "events.jsonl"), stop]
    optimizer = torch.optim.SGD(Bundle(plan).parameters(), lr=0.1)
    return fit(plan, LoaderSource(split([2, 2, 2, 2])), optimizer, FitOptions(
        num_steps=6, output_dir=folder, save=EverySteps(2), log_every=1, callback=callback, sinks=sinks, **options))


def metrics_of(model: nn.Module, step: int) -> dict[str, Any]:
    return {"accuracy": step / 10, "task": {"f1": 1 / step, "loss": float("inf")}}


def log(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [(line["event"], line["step"], line.get("metrics")) for line in lines if line["event"] != "started"]


@pytest.mark.parametrize("evaluation", [None, NORM])
def test_metrics_of_a_callback_survive_a_resume_and_are_logged_once(tmp_path: Path,
                                                                    evaluation: Evaluation | None) -> None:
    whole = train(tmp_path / "whole", metrics_of, evaluation=evaluation)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", metrics_of, stop_at=5, evaluation=evaluation)
    resumed = train(tmp_path / "cut", metrics_of, resume=True, evaluation=evaluation)
    assert resumed.evaluations == whole.evaluations and set(whole.evaluations) == {2, 4, 6}
    assert whole.evaluations[4] | {"norm": 0} == {"accuracy": 0.4, "task/f1": 0.25, "task/loss": float("inf"),
                                                  "norm": 0}
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


@pytest.mark.parametrize("damage", [None, "", '{"metrics": {"accur', "[]"])
def test_a_run_that_ended_inside_the_callback_goes_on_without_its_metrics(tmp_path: Path, damage: str | None) -> None:
    def ending(model: nn.Module, step: int) -> dict[str, Any]:
        if step == 4:
            assert (tmp_path / "gs4" / "training_state" / "state.json").exists(), "the checkpoint is complete by now"
            raise KeyboardInterrupt
        return metrics_of(model, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, ending)
    if damage is not None:
        (tmp_path / "gs4" / "training_state" / "callback.json").write_text(damage)
    resumed = train(tmp_path, metrics_of, resume=True)
    assert {step: found["accuracy"] for step, found in resumed.evaluations.items()} == {2: 0.2, 6: 0.6}
    assert [(kind, step) for kind, step, _ in log(tmp_path) if kind == "checkpoint"] == [
        ("checkpoint", 2), ("checkpoint", 4), ("checkpoint", 6)]


@pytest.mark.parametrize(("value", "wanted"), [
    (3, 3.0), (True, 1.0), (Fraction(1, 2), 0.5), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (np.array([[4.0]]), 4.0),
    (torch.tensor(0.25), 0.25), (torch.tensor([2]), 2.0), (torch.tensor(1.5, requires_grad=True), 1.5),
    (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
])
def test_every_kind_of_number_is_a_metric(value: Any, wanted: float) -> None:
    found = train(None, lambda model, step: {"own": value, 1: {"inner": value}}).evaluations[6]
    assert found == {"own": wanted, "1/inner": wanted} and {type(number) for number in found.values()} == {float}


@pytest.mark.parametrize("value", [
    "text", None, [1.0], np.array([1.0, 2.0]), torch.ones(2), torch.ones(0), 1j, torch.tensor(1j), np.str_("1"),
    {"deeper": 1.0}, 10**400, object(),
])
def test_anything_else_is_passed_over_with_one_warning_that_names_it(value: Any) -> None:
    with pytest.warns(UserWarning) as caught:
        result = train(None, lambda model, step: {"accuracy": 0.5, "task": {"odd": value}})
    assert result.evaluations == {step: {"accuracy": 0.5} for step in (2, 4, 6)}
    assert len(caught) == 1 and f"task/odd (a {type(value).__name__})" in str(caught[0].message)


@pytest.mark.parametrize("returned", [0.5, [1, 2], "done", (0.1, {"f1": 1}), object()])
def test_what_is_no_mapping_is_passed_over(returned: Any) -> None:
    with pytest.warns(UserWarning, match=f"the callback returned a {type(returned).__name__}, which is passed over"):
        assert train(None, lambda model, step: returned).evaluations == {}


@pytest.mark.parametrize("returned", [None, {}, {"task": {}}])
def test_nothing_is_nothing(returned: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(None, lambda model, step: returned).evaluations == {}
