"""Several tasks: which is drawn, how it is weighted, and how drawing goes on after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.batches import as_batch
from stillhouse.errors import DataError
from stillhouse.losses import SoftCrossEntropy, UserLosses
from stillhouse.objective import Objective, TaskObjective, Term
from stillhouse.plan import Distillation
from stillhouse.teachers import RoutedTeacher
from stillhouse.training import Bundle, EverySteps, FitOptions, LoaderSource, Sink, TaskSource, fit, sources
from stillhouse.training.bundle import WindowCounts
from stillhouse.training.events import CheckpointSaved, Event

from .resumable import shuffled_loader, weights_of
from .toy import make_plan, rows, split


def task_plan() -> Distillation:
    base = make_plan(dropout=0.3)
    objectives = TaskObjective({"a": Objective([Term("kd", SoftCrossEntropy(2.0))]),
                                "b": Objective([Term("kd", SoftCrossEntropy(3.0)), Term("hard", UserLosses())])})
    return Distillation(base.student, base.adaptor, RoutedTeacher({"a": base.teacher, "b": base.teacher}), objectives)


def run(folder: Path, *, resume: bool = False, stop: bool = False) -> torch.Tensor:
    class Stop(Sink):
        def emit(self, event: Event) -> None:
            if stop and isinstance(event, CheckpointSaved) and event.step == 5:
                raise KeyboardInterrupt

    torch.manual_seed(3)
    np.random.seed(4)
    plan = task_plan()
    torch.manual_seed(5)
    source = TaskSource({"a": shuffled_loader(), "b": shuffled_loader()})
    options = FitOptions(num_steps=14, accumulation=2, output_dir=folder, save=EverySteps(5), resume=resume,
                         sinks=[Stop()])
    fit(plan, source, torch.optim.AdamW(Bundle(plan).parameters(), lr=0.05), options)
    return weights_of(plan)


def test_a_resumed_run_of_several_tasks_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop=True)
    assert torch.equal(run(tmp_path / "cut", resume=True), whole)


def drawn(source: TaskSource, n: int) -> list[str]:
    batches = source.epoch(0, 0)
    return [next(batches).task for _ in range(n)]


def test_tasks_are_drawn_from_numpys_state_by_size_to_the_power_of_tau() -> None:
    loaders: dict[str, Any] = {"a": [1] * 30, "b": [1] * 10}
    for tau, share in ((1.0, 0.75), (0.0, 0.5)):
        np.random.seed(7)
        wanted = [["a", "b"][i] for i in np.random.RandomState(7).choice(2, p=[share, 1 - share], size=50)]
        assert drawn(TaskSource(loaders, tau), 50) == wanted


def test_drawing_leaves_numpys_own_state_alone() -> None:
    np.random.seed(7)
    drawn(TaskSource({"a": [1], "b": [1]}), 20)
    assert np.random.rand() == np.random.RandomState(7).rand()


def test_an_empty_task_is_said() -> None:
    source = TaskSource({"a": [1], "b": []}, tau=0.0)
    with pytest.raises(DataError, match="'b'"):
        drawn(source, 50)
    with pytest.raises(DataError, match="a, b"):
        TaskSource({"a": [], "b": []})


def test_every_rank_draws_from_rank_zeros_state(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = np.random.RandomState(99).get_state()
    monkeypatch.setattr(sources.distributed, "same_on_all", lambda value: zero)
    np.random.seed(1)
    assert drawn(TaskSource({"a": [1], "b": [1]}), 30) == [["a", "b"][i] for i in
                                                         np.random.RandomState(99).choice(2, p=[0.5, 0.5], size=30)]


def test_a_tasks_share_is_that_of_its_micro_batches_not_of_its_tokens() -> None:
    long, short = split([4, 4], rows())
    window = [as_batch(long, "a"), as_batch(short, "b"), as_batch(short, "b")]
    counts = WindowCounts.declared(task_plan(), window)
    assert counts.share("a") == pytest.approx(1 / 3) and counts.share("b") == pytest.approx(2 / 3)


def test_a_postprocessor_sees_every_batch() -> None:
    source = LoaderSource([(1,), (2,)], postprocessor=lambda raw: (raw[0] * 10,))
    assert [batch.student for batch in source.epoch(0, 0)] == [(10,), (20,)]


def test_a_sampler_is_told_the_epoch() -> None:
    class Sampler:
        epochs: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    class Loader(list):  # type: ignore[type-arg]
        sampler = Sampler()

    source = LoaderSource(Loader([(1,)]))
    for epoch in (0, 1):
        list(source.epoch(epoch, 0))
    assert Sampler.epochs == [0, 1]
