"""Several tasks on one student: which is drawn, what each learns, and its values in the log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import DistillationConfig, MultiTaskDistiller
from stillhouse.distillers import base
from stillhouse.errors import DataError, PlanError
from stillhouse.training import Sink
from stillhouse.training.events import Evaluated, Event, StepLogged

from .toys import MATCH, Endless, Toy, adaptor, batches, kd, logits_only, sgd, student, tconf, teacher, weights

TASKS = ("a", "b", "c")
SIZES = {"a": 8, "b": 2, "c": 4}


def tasks(folder: Path | None, config: Any = None, names: tuple[str, ...] = TASKS, training: Any = None,
          adaptors: Mapping[str, Any] | None = None) -> MultiTaskDistiller:
    config = DistillationConfig() if config is None else config
    teachers = {name: Toy(8, 3, 10 + i) for i, name in enumerate(names)}
    adaptors = adaptors or dict.fromkeys(names, adaptor)
    return MultiTaskDistiller(tconf(folder, **(training or {})), config, teachers, student(), adaptors, adaptors)


class Nothing:
    """A loader of length 0: its task is never drawn."""

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        return iter(())


def loaders(**sizes: int) -> dict[str, Any]:
    return {name: batches(size, seed=i) for i, (name, size) in enumerate((sizes or SIZES).items())}


def drawn(distiller: MultiTaskDistiller, num_steps: int, given: Any = None, **settings: Any) -> list[str]:
    """The tasks whose batches were taken, in order."""
    seen: list[str] = []

    def taker(name: str) -> Any:
        return lambda batch: seen.append(name) or batch

    distiller.train(sgd(distiller.model_S), given or loaders(), num_steps,
                    batch_postprocessors={name: taker(name) for name in SIZES}, **settings)
    return seen


# Which task is drawn


@pytest.mark.parametrize(("tau", "shares"), [
    (1, [8 / 14, 2 / 14, 4 / 14]), (0, [1 / 3] * 3),
    (0.5, [8**0.5 / (8**0.5 + 2**0.5 + 2), 2**0.5 / (8**0.5 + 2**0.5 + 2), 2 / (8**0.5 + 2**0.5 + 2)]),
])
def test_tasks_are_drawn_as_numpy_draws_them(tau: float, shares: list[float]) -> None:
    np.random.seed(11)
    wanted = [str(np.random.choice(TASKS, p=shares)) for _ in range(40)]
    np.random.seed(11)
    assert drawn(tasks(None), 40, tau=tau) == wanted and set(wanted) == set(TASKS)


def test_all_tasks_are_alike_if_a_length_is_unknown() -> None:
    np.random.seed(11)
    wanted = [str(np.random.choice(TASKS, p=[1 / 3] * 3)) for _ in range(30)]
    np.random.seed(11)
    assert drawn(tasks(None), 30, loaders() | {"b": Endless(batches(2))}) == wanted


@pytest.mark.filterwarnings("ignore:gradient accumulation with masks that only the model's outputs tell")
def test_every_micro_batch_has_a_draw_of_its_own() -> None:
    np.random.seed(11)
    wanted = [str(np.random.choice(TASKS, p=[8 / 14, 2 / 14, 4 / 14])) for _ in range(12)]
    np.random.seed(11)
    assert drawn(tasks(None, training={"gradient_accumulation_steps": 3}), 4) == wanted


def test_a_second_training_goes_on_drawing_where_the_first_stopped() -> None:
    np.random.seed(11)
    wanted = [str(np.random.choice(TASKS, p=[8 / 14, 2 / 14, 4 / 14])) for _ in range(30)]
    np.random.seed(11)
    distiller = tasks(None)
    found = drawn(distiller, 10) + drawn(distiller, 20)
    assert found == wanted and found[:10] != found[10:20]


def test_a_seed_in_the_configuration_gives_the_same_draws_every_time() -> None:
    found = [drawn(tasks(None, training={"seed": 3}), 15) for _ in range(2)]
    np.random.seed(3)
    assert found == [[str(np.random.choice(TASKS, p=[8 / 14, 2 / 14, 4 / 14])) for _ in range(15)]] * 2


def test_each_tasks_batches_come_in_order_and_over_again(tmp_path: Path) -> None:
    seen: dict[str, list[int]] = {name: [] for name in SIZES}
    given = loaders()
    place = {name: {id(batch[0]): i for i, batch in enumerate(loader)} for name, loader in given.items()}

    def taker(name: str) -> Any:
        return lambda batch: seen[name].append(place[name][id(batch[0])]) or batch

    np.random.seed(0)
    distiller = tasks(tmp_path)
    distiller.train(sgd(distiller.model_S), given, 40, batch_postprocessors={name: taker(name) for name in SIZES})
    assert all(order == [i % SIZES[name] for i in range(len(order))] for name, order in seen.items())
    assert sum(map(len, seen.values())) == 40 and len(seen["b"]) > 2


def test_a_resumed_training_draws_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    def train(folder: Path, resume: bool = False, stop: bool = False) -> tuple[list[str], Tensor]:
        seen: list[str] = []

        def taker(name: str) -> Any:
            return lambda batch: seen.append(name) or batch

        def callback(model: nn.Module, step: int) -> None:
            if stop and step == 8:
                raise KeyboardInterrupt

        np.random.seed(99 if resume else 5)
        distiller = tasks(folder, training={"resume": resume, "ckpt_steps": 4})
        try:
            distiller.train(torch.optim.Adam(distiller.model_S.parameters()), loaders(), 20, callback=callback,
                            batch_postprocessors={name: taker(name) for name in SIZES})
        except KeyboardInterrupt:
            assert stop
        return seen, torch.cat([weights(distiller.model_S), torch.from_numpy(np.random.rand(3))])

    whole, wanted = train(tmp_path / "whole")
    before, _ = train(tmp_path / "cut", stop=True)
    after, found = train(tmp_path / "cut", resume=True)
    assert before == whole[:8] and after[-12:] == whole[8:]
    assert torch.equal(found, wanted), "the student, and what numpy draws next"


# What each task learns


def test_one_configuration_for_all_shares_the_projections(tmp_path: Path) -> None:
    distiller = tasks(tmp_path, DistillationConfig(intermediate_matches=[MATCH]))
    optimizer = sgd(distiller.model_S)
    distiller.train(optimizer, loaders(), 3)
    assert len(optimizer.param_groups) == 2
    assert len({id(p) for _, objective in distiller.plan.objective.tasks() for p in objective.parameters()}) == 2


def test_each_task_may_have_its_own_configuration_matches_and_projections(tmp_path: Path) -> None:
    configs = {
        "a": DistillationConfig(temperature=2, intermediate_matches=[MATCH | {"proj": ["linear", 6, 8, {"lr": 0.3}]}]),
        "b": DistillationConfig(kd_loss_weight=0, hard_label_weight=2,
                                intermediate_matches=[MATCH | {"layer_S": 0, "layer_T": 0, "weight": 5}]),
    }
    distiller = tasks(tmp_path, configs, names=("a", "b"))
    x, labels = batches()[0]
    s = distiller.model_S(x, labels)
    t = {task: model(x) for task, model in distiller.model_T.items()}
    own = {task: objective.losses for task, objective in distiller.plan.objective.tasks()}
    projections = {"a": own["a"]["unweighted_hidden_hidden_mse_1_2"].projection,
                   "b": own["b"]["unweighted_hidden_hidden_mse_0_0"].projection}
    wanted = {
        "a": kd(s["logits"], t["a"]["logits"], 2).mean()
        + 2 * F.mse_loss(projections["a"](s["hidden"][1]), t["a"]["hidden"][2]),
        "b": 2 * s["loss"] + 5 * F.mse_loss(projections["b"](s["hidden"][0]), t["b"]["hidden"][0]),
    }
    for task, value in wanted.items():
        torch.testing.assert_close(distiller.train_on_batch((x, labels), task=task)[0], value)
    before = {task: weights(projection) for task, projection in projections.items()}
    optimizer = sgd(distiller.model_S)
    distiller.train(optimizer, loaders(a=3, b=3), 8)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3, 0.1]
    for task, projection in projections.items():
        assert not torch.equal(before[task], weights(projection)), f"the projection of {task} learns"


def test_a_step_of_one_task_is_plain_gradient_descent_on_its_loss(tmp_path: Path) -> None:
    distiller, alone = tasks(tmp_path, names=("a",)), student()
    x, labels = batches(1)[0]
    distiller.train(sgd(distiller.model_S), {"a": [(x, labels)]}, 1)
    loss = kd(alone(x)["logits"], distiller.model_T["a"](x)["logits"].detach()).mean()
    (gradient,) = torch.autograd.grad(loss, [alone.out.weight])
    torch.testing.assert_close(distiller.model_S.out.weight, alone.out.weight - 0.1 * gradient)


def test_schedules_of_a_tasks_configuration_run_over_all_steps(tmp_path: Path) -> None:
    configs = {"a": DistillationConfig(kd_loss_weight_scheduler="linear_decay"), "b": DistillationConfig()}
    distiller, alone = tasks(tmp_path, configs, names=("a", "b")), student()
    np.random.seed(2)
    order = [str(np.random.choice(["a", "b"], p=[0.5, 0.5])) for _ in range(4)]
    np.random.seed(2)
    x, _ = batches(1)[0]
    distiller.train(sgd(distiller.model_S), {"a": [(x,)], "b": [(x,)]}, 4)
    for step, task in enumerate(order):
        loss = kd(alone(x)["logits"], distiller.model_T[task](x)["logits"].detach()).mean()
        gradients = torch.autograd.grad(loss, list(alone.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(alone.parameters(), gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.1 * (1 - step / 4 if task == "a" else 1) * gradient
    assert set(order) == {"a", "b"}
    torch.testing.assert_close(weights(distiller.model_S), weights(alone))


# The log


class Recorder(Sink):
    def __init__(self, title: str = "") -> None:
        RECORDED.clear()

    def emit(self, event: Event) -> None:
        RECORDED.append(event)


RECORDED: list[Event] = []


def test_the_log_holds_every_tasks_own_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ConsoleSink", Recorder)
    np.random.seed(2)
    distiller = tasks(tmp_path, DistillationConfig(hard_label_weight=1), names=("a", "b"), training={"log_every": 1})
    x, labels = batches(1)[0]
    first, _ = distiller.train_on_batch((x, labels), task="a")
    distiller.train(sgd(distiller.model_S), {"a": [(x, labels)], "b": [(x, labels)]}, 6)
    logged = [event.parts for event in RECORDED if isinstance(event, StepLogged)]
    assert len(logged) == 6 and {frozenset(parts) for parts in logged} == {
        frozenset({f"{task}/unweighted_kd_loss", f"{task}/unweighted_hard_label_loss"}) for task in "ab"}
    np.random.seed(2)
    if np.random.choice(["a", "b"], p=[0.5, 0.5]) == "a":
        assert sum(logged[0].values()) == pytest.approx(float(first.detach()))


def test_metrics_of_a_callback_are_kept_by_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ConsoleSink", Recorder)
    distiller = tasks(tmp_path, names=("a", "b"), training={"ckpt_steps": 2})
    result = distiller.train(
        sgd(distiller.model_S), loaders(a=2, b=2), 4,
        callback=lambda model, step: {"a": {"accuracy": step / 10, "f1": 0.5}, "b": {"accuracy": 1}, "mean": 0.25})
    wanted = {step: {"a/accuracy": step / 10, "a/f1": 0.5, "b/accuracy": 1.0, "mean": 0.25} for step in (2, 4)}
    assert result.evaluations == wanted
    assert {event.step: event.metrics for event in RECORDED if isinstance(event, Evaluated)} == wanted


def test_tensorboard_shows_them_under_the_tasks_name(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    distiller = tasks(tmp_path, names=("a",), training={"log_dir": str(tmp_path / "log"), "log_every": 1})
    distiller.train(sgd(distiller.model_S), loaders(a=2), 3, callback=lambda model, step: {"a": {"accuracy": 0.75}})
    log = EventAccumulator(str(tmp_path / "log")).Reload()
    assert {"scalar/total_loss", "scalar/unweighted_kd_loss", "evaluation/a/accuracy"} <= set(log.Tags()["scalars"])
    assert [(event.step, event.value) for event in log.Scalars("evaluation/a/accuracy")] == [(3, 0.75)]


# What cannot work


def test_tasks_that_differ_are_refused(tmp_path: Path) -> None:
    config = DistillationConfig()
    for what, configs, of_teachers, of_student in (
        ("configurations", {"b": config}, {"a": adaptor}, {"a": adaptor}),
        ("teacher adaptors", config, {"b": adaptor}, {"a": adaptor}),
        ("student adaptors", config, {"a": adaptor}, {"a": adaptor, "b": adaptor}),
    ):
        with pytest.raises(PlanError, match=f"{what} for .*'b'.* the same tasks"):
            MultiTaskDistiller(tconf(tmp_path), configs, {"a": teacher()}, student(), of_teachers, of_student)
    with pytest.raises(PlanError, match=r"loaders are given for \['a'\], teachers for \['a', 'b', 'c'\]"):
        drawn(tasks(None), 1, loaders(a=1))


def test_empty_loaders_and_unknown_tasks_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"loaders of all tasks \(a, b, c\) are empty"):
        drawn(tasks(None), 1, loaders(a=0, b=0, c=0))
    with pytest.raises(PlanError, match="no objective for task 'z'; there are a, b, c"):
        tasks(None).train_on_batch(batches()[0], task="z")


def test_a_task_without_logits_trains_on_what_it_has(tmp_path: Path) -> None:
    only_layers = {"a": lambda batch, out: {"hidden": out["hidden"]}, "b": logits_only}
    configs = {"a": DistillationConfig(intermediate_matches=[MATCH], kd_loss_weight=0), "b": DistillationConfig()}
    distiller = tasks(tmp_path, configs, names=("a", "b"), adaptors=only_layers)
    assert set(distiller.train_on_batch(batches()[0], task="a")[1]) == {"unweighted_hidden_hidden_mse_1_2"}
    assert set(distiller.train_on_batch(batches()[0], task="b")[1]) == {"unweighted_kd_loss"}


@pytest.mark.parametrize("seed", range(4))
def test_a_task_whose_weight_is_zero_waits_and_the_others_go_on(seed: int) -> None:
    np.random.seed(seed)
    config = {"a": DistillationConfig(kd_loss_weight_scheduler="linear_growth"), "b": DistillationConfig()}
    distiller = tasks(None, config, ("a", "b"))
    result = distiller.train(sgd(distiller.model_S), {"a": batches(4), "b": batches(2, seed=1)}, num_steps=6)
    assert result.steps == 6
    only_a = tasks(None, config, ("a", "b"))
    before = weights(only_a.model_S)
    only_a.train(sgd(only_a.model_S), {"a": batches(1), "b": Nothing()}, num_steps=1)
    assert torch.equal(weights(only_a.model_S), before), "in the first step the weight of task a is 0"


def test_a_postprocessor_of_no_task_is_refused() -> None:
    distiller = tasks(None)
    with pytest.raises(PlanError, match=r"batch_postprocessors are given for \['zzz'\], and teachers for"):
        distiller.train(sgd(distiller.model_S), loaders(), num_steps=1, batch_postprocessors={"zzz": lambda b: b})
