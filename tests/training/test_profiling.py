"""Promises of a profile: it finds where the time goes, and the training is the one without it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse import phases
from stillhouse.errors import PlanError
from stillhouse.phases import phase
from stillhouse.training import Evaluation, EverySteps, FitOptions, LoaderSource, Profile, Sink, StepProfile, fit
from stillhouse.training.bundle import Bundle
from stillhouse.training.events import Event, StepLogged
from stillhouse.training.profiling import Lap, StepMeter
from stillhouse.types import Batch

from .resumable import weights_of
from .toy import collate, make_plan, rows

SLEEP_S = 0.02
ALL = {"data", "teacher", "student", "losses", "backward", "optimizer", "logging", "checkpoints", "rest"}


class Loader:
    """Batches of three rows, slowly if asked to."""

    def __init__(self, batches: int, sleep_s: float = 0.0) -> None:
        self.batches, self.sleep_s = batches, sleep_s

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.batches):
            time.sleep(self.sleep_s)
            yield collate(rows(3, seed=number))


class SlowSink(Sink):
    def emit(self, event: Event) -> None:
        if isinstance(event, StepLogged):
            time.sleep(SLEEP_S)


def train(loader: Any, profile: Profile | None, plan: Any = None, **options: Any) -> Any:
    plan = make_plan(dropout=0.4) if plan is None else plan
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(Bundle(plan).parameters(), lr=0.05)
    options.setdefault("num_epochs", 1)
    fit(plan, LoaderSource(loader), optimizer, FitOptions(profile=profile, log_every=1, **options))
    return plan


def test_a_profile_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    told: list[StepProfile] = []
    with_it = train(Loader(12), Profile(tmp_path, steps=4, warm_up=2, tell=told.append), max_grad_norm=1.0)
    without = train(Loader(12), None, max_grad_norm=1.0)
    assert torch.equal(weights_of(with_it), weights_of(without))
    assert len(told) == 1 and [lap.rows for lap in told[0].laps] == [3, 3, 3, 3]


def test_time_is_found_where_it_is_spent(tmp_path: Path) -> None:
    def judge(model: nn.Module) -> Mapping[str, float]:
        time.sleep(SLEEP_S)
        return {"value": 1.0}

    plan = make_plan()
    adaptor = plan.teacher.adaptor
    run = adaptor.run

    def slow(*arguments: Any) -> Any:
        time.sleep(SLEEP_S)
        return run(*arguments)

    adaptor.run = slow
    train(Loader(12, SLEEP_S), Profile(tmp_path, steps=5, warm_up=1), plan, sinks=[SlowSink()],
          evaluation=Evaluation(judge, "value"), save=EverySteps(1))
    found = json.loads((tmp_path / "profile.json").read_text())
    assert set(found["phases"]) == ALL
    for name in ("data", "teacher", "logging", "checkpoints"):
        assert found["phases"][name]["median_ms"] >= 1000 * SLEEP_S, name
    slept = {"data", "teacher", "logging", "checkpoints"}
    assert sum(found["phases"][name]["share"] for name in slept) > 0.5
    assert sum(one["mean_ms"] for one in found["phases"].values()) == pytest.approx(found["step"]["mean_ms"])
    assert sum(one["share"] for one in found["phases"].values()) == pytest.approx(1)
    assert found["rows_per_step"] == 3 and found["steps"] == 5 and found["peak_memory_bytes"] is None


def test_the_trace_names_the_phases_of_three_steps(tmp_path: Path) -> None:
    train(Loader(8), Profile(tmp_path, steps=1, warm_up=1))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    named = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    assert {named[name] for name in ("teacher", "student", "backward")} == {3}
    assert named["optimizer"] >= 3 and named["data"] >= 3


def test_a_training_too_short_to_be_measured_is_refused_before_it_starts(tmp_path: Path) -> None:
    plan = make_plan()
    with pytest.raises(PlanError, match=r"profile of 20 steps takes 28 .* there are 12; measure at most 4"):
        train(Loader(12), Profile(tmp_path), plan)
    with pytest.raises(PlanError, match="there are 8; train longer"):
        train(Loader(8), Profile(tmp_path), plan)
    assert plan.student.forwards == 0
    with pytest.raises(PlanError, match="at least 1 step"):
        Profile(tmp_path, steps=0)


@pytest.mark.parametrize(("batches", "measured"), [(2, None), (4, 2)])
def test_a_training_of_unknown_length_that_was_too_short_says_so(
    tmp_path: Path, batches: int, measured: int | None
) -> None:
    class Endless:
        def __iter__(self) -> Iterator[Any]:
            return iter(Loader(batches))

    with pytest.warns(UserWarning, match="training was over after"):
        train(Endless(), Profile(tmp_path, steps=9, warm_up=2))
    path = tmp_path / "profile.json"
    assert (json.loads(path.read_text())["steps"] if path.exists() else None) == measured


def test_a_trace_that_was_not_finished_is_missed(tmp_path: Path) -> None:
    class Endless:
        def __iter__(self) -> Iterator[Any]:
            return iter(Loader(6))

    with pytest.warns(UserWarning, match="within the 3 steps after the measured ones, so there is no trace.json"):
        train(Endless(), Profile(tmp_path, steps=3, warm_up=2))
    assert {path.name for path in tmp_path.iterdir()} == {"profile.json"}


@pytest.mark.parametrize("batches", [2, 4, 6])
def test_an_error_ends_the_measurement(tmp_path: Path, batches: int) -> None:
    """In the warm-up, in the measured steps, in the trace."""
    class Broken:
        def __len__(self) -> int:
            return 20

        def __iter__(self) -> Iterator[Any]:
            yield from Loader(batches)
            raise KeyError

    with pytest.raises(KeyError):
        train(Broken(), Profile(tmp_path, steps=2, warm_up=3))
    assert phases._clock is None
    assert not (tmp_path / "trace.json").exists()


def test_on_cuda_the_rate_is_that_of_steps_in_which_no_phase_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = [0]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waits.append(waits.pop() + 1))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5_000_000)
    told: list[StepProfile] = []
    meter = StepMeter(Profile(tmp_path, steps=3, warm_up=1, tell=told.append), torch.device("cuda"), "bf16")
    seen = []
    batch = Batch(student=[torch.zeros(2)], teacher=[torch.zeros(2)])
    for _ in range(1 + 3 + 3):
        waits[0] = 0
        with phase("student"), phase("losses"):
            pass
        meter.after_step([batch])
        seen.append(waits[0])
    meter.close()
    assert seen[1:3] == [1, 1] and seen[4:6] == [5, 5]  # a lap waits once, and each phase as it starts and ends
    found = told[0].as_dict()
    assert [lap.rows for lap in told[0].free_laps] == [2, 2, 2] and len(told[0].laps) == 3
    assert found["peak_memory_bytes"] == 5_000_000 and found["free_step"]["mean_ms"] > 0


def test_the_rate_leaves_checkpoints_out_and_prefers_steps_that_did_not_wait() -> None:
    laps = [Lap(6, {"student": 1.0, "checkpoints": 7.0}, {"cache": 1.1}), Lap(2, {"student": 3.0}, {})]
    profile = StepProfile(laps, [], "cpu", "fp32", 2)
    assert profile.rows_per_s == pytest.approx(8 / 4)
    assert profile.phases["student"] == {"median_ms": 2000, "mean_ms": 2000, "share": pytest.approx(4 / 11)}
    assert profile.beside["cache"]["share"] == pytest.approx(1.1 / 11) and "teacher cache, beside it " in str(profile)
    assert "evaluation, checkpoints" in str(profile) and "losses" not in str(profile)
    free_laps = [Lap(6, {"student": 0.5}, {}), Lap(2, {"student": 1.0}, {})]
    on_cuda = StepProfile(laps, free_laps, "cuda", "bf16", 2, 3_000_000)
    assert on_cuda.rows_per_s == pytest.approx(8 / 1.5)
    assert "a step takes 750.00 ms when no phase waits" in str(on_cuda) and "3 MB" in str(on_cuda)
