"""Several tasks: which is drawn, how it is weighted, and how drawing goes on after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from stillhouse.batches import as_batch
from stillhouse.errors import DataError
from stillhouse.losses import SoftCrossEntropy, UserLosses
from stillhouse.objective import Objective, TaskObjective, Term
from stillhouse.plan import Distillation
from stillhouse.teachers import RoutedTeacher
from stillhouse.training import Bundle, EverySteps, FitOptions, LoaderSource, TaskSource, fit, sources
from stillhouse.training.bundle import WindowCounts
from stillhouse.training.precision import Precision
from stillhouse.training.step import accumulate_gradients
from stillhouse.types import Batch, Progress

from .resumable import StopAt, shuffled_loader, weights_of
from .toy import collate, make_plan, rows, split


def task_plan() -> Distillation:
    base = make_plan(dropout=0.3)
    objectives = TaskObjective({"a": Objective([Term("kd", SoftCrossEntropy(2.0))]),
                                "b": Objective([Term("kd", SoftCrossEntropy(3.0)), Term("hard", UserLosses())])})
    return Distillation(base.student, base.adaptor, RoutedTeacher({"a": base.teacher, "b": base.teacher}), objectives)


def run(folder: Path, *, resume: bool = False, stop: bool = False) -> torch.Tensor:
    torch.manual_seed(3)
    np.random.seed(4)
    plan = task_plan()
    torch.manual_seed(5)
    source = TaskSource({"a": shuffled_loader(), "b": shuffled_loader()})
    options = FitOptions(num_steps=14, accumulation=2, output_dir=folder, save=EverySteps(5), resume=resume,
                         sinks=[StopAt(5 if stop else None)])
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


def test_a_second_source_goes_on_drawing_where_the_first_stopped() -> None:
    np.random.seed(7)
    found = [task for n in (20, 30) for task in drawn(TaskSource({"a": [1], "b": [1]}), n)]
    assert found == [["a", "b"][i] for i in np.random.RandomState(7).choice(2, p=[0.5, 0.5], size=50)]


def test_an_empty_task_is_said() -> None:
    source = TaskSource({"a": [1], "b": []}, tau=0.0)
    with pytest.raises(DataError, match="'b'"):
        drawn(source, 50)
    with pytest.raises(DataError, match="a, b"):
        TaskSource({"a": [], "b": []})


def test_every_rank_draws_from_rank_zeros_state(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = np.random.RandomState(99).get_state(), [0.25, 0.75]
    monkeypatch.setattr(sources.distributed, "same_on_all", lambda value: zero)
    np.random.seed(1)
    wanted = [["a", "b"][i] for i in np.random.RandomState(99).choice(2, p=[0.25, 0.75], size=30)]
    assert drawn(TaskSource({"a": [1], "b": [1]}), 30) == wanted


def test_a_tasks_share_is_that_of_its_micro_batches_not_of_its_tokens() -> None:
    long, short = split([4, 4], rows())
    window = [as_batch(long, "a"), as_batch(short, "b"), as_batch(short, "b")]
    counts = WindowCounts.declared(task_plan(), window)
    assert counts.share("a") == pytest.approx(1 / 3) and counts.share("b") == pytest.approx(2 / 3)


def test_a_step_of_several_tasks_is_the_mean_of_theirs_by_micro_batches() -> None:
    def gradient(window: list[Batch]) -> torch.Tensor:
        plan = task_plan()
        plan.student.dropout.p = 0.0
        bundle = Bundle(plan)
        accumulate_gradients(plan, bundle, bundle, window, Progress(0, 1), {}, Precision().scaler(torch.device("cpu")))
        return torch.cat([parameter.grad.flatten() for parameter in plan.student.parameters()])

    long, short, last = split([4, 3, 1], rows())
    a, b = [as_batch(long, "a")], [as_batch(short, "b"), as_batch(last, "b")]
    mixed = gradient(a) / 3 + gradient(b) * 2 / 3
    torch.testing.assert_close(gradient([b[0], *a, b[1]]), mixed, rtol=1e-10, atol=1e-14)


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


def drawn_by_rank_one(epoch: int) -> list[list[int]]:
    """What torch documents for `DistributedSampler`: a permutation drawn from seed + epoch, every second row of it."""
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5 + epoch))[1::2].tolist()
    return [order[:2], order[2:]]


def sampled_run(folder: Path, *, stop_at: int | None = None, resume: bool = False, batch_sampler: bool = False,
                **length: Any) -> tuple[list[list[int]], torch.Tensor]:
    """The rows of the micro-batches trained on, drawn by a sampler made for two ranks, and the trained weights."""
    seen: list[list[int]] = []

    def batch_of(chosen: list[int]) -> dict[str, Any]:
        return {"rows": chosen} | collate([rows()[i] for i in chosen])

    def take(raw: dict[str, Any]) -> dict[str, Any]:
        seen.append(raw.pop("rows"))
        return raw

    sampler: Any = DistributedSampler(range(8), num_replicas=2, rank=1, seed=5)  # type: ignore[arg-type]
    how: dict[str, Any] = ({"batch_sampler": BatchSampler(sampler, 2, drop_last=False)} if batch_sampler
                           else {"sampler": sampler, "batch_size": 2})
    loader: Any = DataLoader(range(8), collate_fn=batch_of, **how)  # type: ignore[arg-type]
    plan = make_plan()
    options = FitOptions(output_dir=folder, save=EverySteps(1), resume=resume, sinks=[StopAt(stop_at)], **length)
    optimizer = torch.optim.AdamW(Bundle(plan).parameters(), lr=0.05)
    if stop_at is None:
        fit(plan, LoaderSource(loader, take), optimizer, options)
    else:
        with pytest.raises(KeyboardInterrupt):
            fit(plan, LoaderSource(loader, take), optimizer, options)
    return seen, weights_of(plan)


@pytest.mark.parametrize("length", [{"num_epochs": 3}, {"num_steps": 6}, {"num_steps": 2, "accumulation": 3}], ids=str)
def test_a_distributed_sampler_shuffles_anew_in_every_epoch(tmp_path: Path, length: dict[str, Any]) -> None:
    wanted = [batch for epoch in range(3) for batch in drawn_by_rank_one(epoch)]
    assert wanted[:2] != wanted[2:4] != wanted[4:]
    assert sampled_run(tmp_path, **length)[0] == wanted


@pytest.mark.parametrize("length", [{"num_epochs": 3}, {"num_steps": 6}], ids=str)
@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_resumed_run_goes_on_in_the_sampler_s_own_epoch(
    tmp_path: Path, stop_at: int, length: dict[str, Any]
) -> None:
    wanted, weights = sampled_run(tmp_path / "whole", **length)
    before, _ = sampled_run(tmp_path / "cut", stop_at=stop_at, **length)
    after, resumed = sampled_run(tmp_path / "cut", resume=True, **length)
    assert (before, after) == (wanted[:stop_at], wanted[stop_at:])
    assert torch.equal(resumed, weights)


def test_a_distributed_sampler_inside_a_batch_sampler_is_told_the_epoch(tmp_path: Path) -> None:
    wanted = [batch for epoch in range(3) for batch in drawn_by_rank_one(epoch)]
    assert sampled_run(tmp_path, batch_sampler=True, num_epochs=3)[0] == wanted
