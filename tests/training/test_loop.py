"""The loop: what it trains, when it saves, what it says, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.errors import CheckpointError, DataError, NonFiniteLossError, OutputError, PlanError
from stillhouse.losses import SoftCrossEntropy
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.schedules import Linear
from stillhouse.training import (
    Bundle,
    Evaluation,
    EverySteps,
    FitOptions,
    JsonLinesSink,
    LoaderSource,
    PerEpoch,
    Sink,
    fit,
)
from stillhouse.training import checkpoint as checkpoints
from stillhouse.training.events import CheckpointSaved, Evaluated, Event, RunFinished, StepLogged

from .resumable import StopAt, run, shuffled_loader, weights_of
from .toy import collate, make_plan, rows, split

ROOT = Path(__file__).parents[2]


class Kept(Sink):
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed = True


def train(plan: Distillation, batches: Any, **options: Any) -> Any:
    optimizer = torch.optim.SGD(Bundle(plan).parameters(), lr=options.pop("lr", 0.1))
    options.setdefault("num_epochs", 1)
    return fit(plan, LoaderSource(batches), optimizer, FitOptions(**options))


def test_left_over_micro_batches_train_too() -> None:
    plan = make_plan()
    result = train(plan, split([2, 2, 2, 1, 1]), accumulation=2, num_epochs=2)
    assert result.steps == 6
    assert plan.student.forwards == 10


def test_windows_cross_the_end_of_an_epoch_when_steps_are_counted() -> None:
    plan = make_plan()
    result = train(plan, split([4, 2, 2]), accumulation=2, num_epochs=None, num_steps=3)
    assert result.steps == 3
    assert plan.student.forwards == 6


def test_part_of_an_epoch_trains_part_of_it() -> None:
    assert train(make_plan(), split([2, 2, 2, 2]), num_epochs=1.5).steps == 6


def test_the_first_logged_loss_is_that_of_the_untrained_student() -> None:
    from .toy import whole_batch_loss

    wanted = float(whole_batch_loss(make_plan(), False).detach())
    sink = Kept()
    train(make_plan(), [collate(rows())], sinks=[sink], log_every=1)
    steps = [event for event in sink.events if isinstance(event, StepLogged)]
    assert steps[0].loss == pytest.approx(wanted, rel=1e-6)
    assert set(steps[0].parts) == {"kd", "hidden", "nst", "l1", "first", "hard"}
    assert isinstance(sink.events[-1], RunFinished) and sink.closed


def test_clipping_covers_the_projection() -> None:
    plan = make_plan()
    optimizer = torch.optim.SGD(Bundle(plan).parameters(), lr=0.0)
    norms: list[float] = []
    optimizer.register_step_pre_hook(lambda o, a, k: norms.append(float(torch.linalg.vector_norm(
        torch.cat([p.grad.flatten() for g in o.param_groups for p in g["params"]])))))
    fit(plan, LoaderSource(split([8])), optimizer, FitOptions(num_epochs=1, max_grad_norm=1e-3))
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)


def test_stale_gradients_are_not_used() -> None:
    clean, stale = make_plan(), make_plan()
    for parameter in Bundle(stale).parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    for plan in (clean, stale):
        train(plan, split([8]))
    assert all(torch.equal(a, b) for a, b in zip(clean.student.parameters(), stale.student.parameters(), strict=True))


def test_modes_are_as_before_afterwards_and_right_inside() -> None:
    plan = make_plan(dropout=0.5)
    plan.student.eval()
    plan.student.dropout.train()
    seen: list[bool] = []
    plan.student.register_forward_pre_hook(lambda m, a: seen.append(m.training))
    train(plan, split([8]))
    assert seen == [True]
    assert plan.student.training is False and plan.student.dropout.training is True


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient() -> None:
    from stillhouse.losses import ForwardKL

    base = make_plan()
    plan = Distillation(base.student, base.adaptor, type(base.teacher)(base.student, base.adaptor_for("default")),
                        Objective([Term("kl", ForwardKL(4.0))]))
    before = weights_of(plan)
    sink = Kept()
    train(plan, split([4, 4]), sinks=[sink], log_every=1, lr=10.0)
    assert [e.loss for e in sink.events if isinstance(e, StepLogged)] == pytest.approx([0.0, 0.0], abs=1e-12)
    torch.testing.assert_close(weights_of(plan), before, rtol=1e-12, atol=1e-12)


def test_steps_without_any_weight_are_skipped_but_counted() -> None:
    base = make_plan()
    term = Term("kd", SoftCrossEntropy(2.0), Linear(0.0, 0.0))
    plan = Distillation(base.student, base.adaptor, base.teacher, Objective([term]))
    assert train(plan, split([4, 4])).steps == 2
    assert plan.student.forwards == 0


def test_a_scheduler_makes_no_noise_over_a_first_step_without_any_weight() -> None:
    base = make_plan()
    plan = Distillation(base.student, base.adaptor, base.teacher,
                        Objective([Term("kd", SoftCrossEntropy(2.0), Linear(0.0, 1.0))]))
    optimizer = torch.optim.SGD(Bundle(plan).parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    result = fit(plan, LoaderSource(split([4, 4])), optimizer, FitOptions(num_epochs=1), scheduler)
    assert result.steps == 2 and plan.student.forwards == 1  # and no warning


def test_a_schedule_needs_the_length_of_training() -> None:
    base = make_plan()
    plan = Distillation(base.student, base.adaptor, base.teacher,
                        Objective([Term("kd", SoftCrossEntropy(2.0), Linear(1.0, 0.0))]))

    class NoLength:
        def __iter__(self) -> Any:
            return iter(split([4, 4]))

    with pytest.raises(PlanError, match="num_steps"):
        train(plan, NoLength())
    assert train(plan, NoLength(), num_epochs=None, num_steps=3).steps == 3


def test_a_loader_without_length_trains_whole_epochs() -> None:
    class NoLength:
        def __iter__(self) -> Any:
            return iter(split([4, 4]))

    assert train(make_plan(), NoLength(), num_epochs=2).steps == 4


@pytest.mark.parametrize("loader", [[], iter(())])
def test_no_data_is_said(loader: Any) -> None:
    with pytest.raises(DataError, match="no batch"):
        train(make_plan(), loader)


def test_a_used_up_generator_is_said() -> None:
    with pytest.raises(DataError, match="only once"):
        train(make_plan(), iter(split([4, 4])), num_epochs=2)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    plan = make_plan()
    with torch.no_grad():
        plan.student.embedding[:] = float("nan")
    out = plan.student.out.detach().clone()
    sink = Kept()
    with pytest.raises(NonFiniteLossError, match=r"nan at step 1 \(in .*kd"):
        train(plan, split([8]), output_dir=tmp_path / "out", sinks=[sink])
    assert torch.equal(plan.student.out, out)
    assert not (tmp_path / "out").exists()
    assert sink.closed


def test_an_adaptor_that_gives_nothing_is_said_at_the_first_micro_batch() -> None:
    base = make_plan()
    plan = Distillation(base.student, type(base.adaptor)(lambda batch, out: {}), base.teacher,  # type: ignore[operator]
                        Objective([Term("kd", SoftCrossEntropy(2.0))]))
    with pytest.raises(OutputError, match=r"needs the student's logits\[0\]"):
        train(plan, split([8]))


class TestOptimizers:
    def fit_with(self, optimizer: Any, scheduler: Any = None, plan: Distillation | None = None) -> None:
        fit(plan or make_plan(), LoaderSource(split([8])), optimizer, FitOptions(num_epochs=1), scheduler)

    def test_one_over_another_model_is_refused(self) -> None:
        other = torch.optim.SGD(make_plan().student.parameters(), lr=0.1)
        with pytest.raises(PlanError, match="no parameter of the student"):
            self.fit_with(other)

    def test_one_without_the_projection_is_refused(self) -> None:
        plan = make_plan()
        with pytest.raises(PlanError, match=r"losses\.hidden\.projection\.linear\.weight"):
            self.fit_with(torch.optim.SGD(plan.student.parameters(), lr=0.1), plan=plan)

    def test_kinds_that_cannot_work_are_refused_before_training(self) -> None:
        plan = make_plan()
        with pytest.raises(PlanError, match="LBFGS"):
            self.fit_with(torch.optim.LBFGS(Bundle(plan).parameters()), plan=plan)
        optimizer = torch.optim.SGD(Bundle(plan).parameters(), lr=0.1)
        with pytest.raises(PlanError, match="LambdaLR"):
            self.fit_with(optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), plan)
        assert plan.student.forwards == 0


class TestSaving:
    def steps(self, tmp_path: Path, n: int = 5, **options: Any) -> list[int]:
        train(make_plan(), split([1] * n), output_dir=tmp_path, **options)
        return checkpoints.steps(tmp_path)

    @pytest.mark.parametrize(("frequency", "wanted"), [(1, [5, 10]), (2, [2, 5, 7, 10]), (10, list(range(1, 11)))])
    def test_epochs_save_evenly(self, tmp_path: Path, frequency: int, wanted: list[int]) -> None:
        assert self.steps(tmp_path, num_epochs=2, save=PerEpoch(frequency, 1, 5, 2)) == wanted

    def test_the_last_epoch_saves_whatever_its_number(self, tmp_path: Path) -> None:
        assert self.steps(tmp_path, num_epochs=3, save=PerEpoch(1, 2, 5, 3)) == [10, 15]

    def test_steps_save_and_so_does_the_end(self, tmp_path: Path) -> None:
        assert self.steps(tmp_path, num_epochs=None, num_steps=7, save=EverySteps(3)) == [3, 6, 7]

    def test_only_the_newest_and_the_best_are_kept(self, tmp_path: Path) -> None:
        scores = iter([0.1, 0.9, 0.2, 0.3])
        evaluation = Evaluation(lambda student: {"accuracy": next(scores)}, "accuracy")
        kept = self.steps(tmp_path, n=1, num_epochs=4, save=PerEpoch(1, 1, 1, 4), keep_last=1, evaluation=evaluation)
        assert kept == [2, 4]
        assert not (tmp_path / "gs2" / checkpoints.STATE_DIR).exists()
        assert (tmp_path / "gs4" / checkpoints.STATE_DIR).exists()

    def test_an_interrupted_write_leaves_no_checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoints.os, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            train(make_plan(), split([8]), output_dir=tmp_path)
        assert checkpoints.steps(tmp_path) == [] and checkpoints.newest(tmp_path) is None

    def test_the_file_is_the_student_without_projections(self, tmp_path: Path) -> None:
        plan = make_plan()
        train(plan, split([8]), output_dir=tmp_path)
        other = make_plan().student
        checkpoints.load_student(tmp_path / "gs1", other)
        assert all(torch.equal(a, b) for a, b in zip(plan.student.parameters(), other.parameters(), strict=True))
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pt", ".bin")]


class TestEvaluation:
    def test_early_stopping_after_patience(self) -> None:
        scores = iter([0.5, 0.4, 0.3, 0.9])
        evaluation = Evaluation(lambda student: {"accuracy": next(scores)}, "accuracy", patience=2)
        result = train(make_plan(), split([8]), num_epochs=4, save=PerEpoch(1, 1, 1, 4), evaluation=evaluation)
        assert (result.steps, result.reason, result.best_step) == (3, "early stopping", 1)

    def test_it_runs_in_eval_mode_and_leaves_the_random_state_alone(self) -> None:
        def nosy(student: nn.Module) -> dict[str, float]:
            assert not student.training and not torch.is_grad_enabled()
            torch.rand(3)
            return {"accuracy": 0.0}

        results = []
        for evaluation in (None, Evaluation(nosy, "accuracy")):
            torch.manual_seed(0)
            plan = make_plan(dropout=0.3)
            torch.manual_seed(1)
            train(plan, split([4, 4]), num_epochs=2, save=EverySteps(1), evaluation=evaluation)
            results.append(weights_of(plan))
        assert torch.equal(*results)

    def test_an_unknown_metric_is_said(self) -> None:
        with pytest.raises(PlanError, match=r"'f1'.*accuracy"):
            train(make_plan(), split([8]), evaluation=Evaluation(lambda student: {"accuracy": 0.0}, "f1"))

    def test_events_tell_metrics_before_the_checkpoint(self, tmp_path: Path) -> None:
        sink = Kept()
        evaluation = Evaluation(lambda student: {"accuracy": 0.25}, "accuracy")
        train(make_plan(), split([8]), output_dir=tmp_path, sinks=[sink], evaluation=evaluation)
        kinds = [type(event) for event in sink.events]
        assert kinds.index(Evaluated) < kinds.index(CheckpointSaved)


class TestResume:
    @pytest.mark.parametrize("save_at", [1, 2, 3, 5])
    def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(self, tmp_path: Path, save_at: int) -> None:
        whole = run(tmp_path / "whole", interval=save_at)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", interval=save_at, stop_at=save_at)
        resumed = run(tmp_path / "cut", interval=save_at, resume=True)
        assert torch.equal(whole, resumed)
        assert events(tmp_path / "whole") == events(tmp_path / "cut")

    def test_a_killed_process_loses_nothing(self, tmp_path: Path) -> None:
        whole = run(tmp_path / "whole", interval=2)
        command = [sys.executable, "-m", "tests.training.resumable", str(tmp_path / "cut"), "3"]
        killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert torch.equal(run(tmp_path / "cut", interval=2, resume=True), whole)
        assert events(tmp_path / "whole") == events(tmp_path / "cut")

    def test_a_finished_run_is_not_trained_again(self, tmp_path: Path) -> None:
        whole = run(tmp_path, interval=2)
        assert torch.equal(run(tmp_path, interval=2, resume=True), whole)

    def test_another_experiment_is_refused(self, tmp_path: Path) -> None:
        train(make_plan(), split([4, 4]), output_dir=tmp_path)
        with pytest.raises(CheckpointError, match="micro-batches a step"):
            train(make_plan(), split([4, 4]), output_dir=tmp_path, resume=True, accumulation=2)

    def test_a_resumed_run_keeps_the_newest_and_the_best_of_before(self, tmp_path: Path) -> None:
        def part(folder: Path, scores: list[float], stop_at: int | None, resume: bool) -> tuple[Any, torch.Tensor]:
            plan, left = make_plan(dropout=0.2), iter(scores)
            torch.manual_seed(4)
            result = train(plan, split([1] * 3), num_epochs=2, output_dir=folder, save=EverySteps(1), keep_last=2,
                           evaluation=Evaluation(lambda student: {"accuracy": next(left)}, "accuracy"),
                           sinks=[StopAt(stop_at)], resume=resume)
            return result, weights_of(plan)

        scores = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5]
        whole, weights = part(tmp_path / "whole", scores, None, False)
        with pytest.raises(KeyboardInterrupt):
            part(tmp_path / "cut", scores, 4, False)
        assert checkpoints.steps(tmp_path / "cut") == [1, 3, 4]
        (tmp_path / "cut" / ".writing-gs5" / "left over").mkdir(parents=True)
        resumed, resumed_weights = part(tmp_path / "cut", scores[4:], None, True)
        assert torch.equal(resumed_weights, weights)
        assert resumed.best_step == whole.best_step == 1 and resumed.evaluations == whole.evaluations
        names = {folder: sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("whole", "cut")}
        assert names["whole"] == names["cut"] == ["gs1", "gs5", "gs6"]
        assert [path.parent.name for path in (tmp_path / "cut").rglob(checkpoints.STATE_DIR)] == ["gs6"]

    def test_a_damaged_state_is_said(self, tmp_path: Path) -> None:
        train(make_plan(), split([4, 4]), output_dir=tmp_path)
        (tmp_path / "gs2" / checkpoints.STATE_DIR / "state.safetensors").write_bytes(b"half")
        with pytest.raises(CheckpointError, match=r"state\.safetensors"):
            train(make_plan(), split([4, 4]), output_dir=tmp_path, resume=True)


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("_s")} for line in lines]


def test_a_sink_writes_json_lines_that_can_be_cut(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "events.jsonl")
    sink.emit(RunFinished(1))
    position = sink.position()
    sink.emit(RunFinished(2))
    sink.rewind(position)
    sink.emit(RunFinished(3))
    sink.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "events.jsonl").read_text().splitlines()] == [1, 3]


def test_shuffling_differs_between_epochs() -> None:
    """Guards the resume tests: with one order for all epochs they would not notice a wrong one."""
    torch.manual_seed(0)
    loader = shuffled_loader()
    assert [b["ids"].tolist() for b in loader] != [b["ids"].tolist() for b in loader]
