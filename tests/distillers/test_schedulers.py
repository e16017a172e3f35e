"""A ready-made scheduler, which was made before the projections joined the optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR
from transformers import get_linear_schedule_with_warmup

from stillhouse import GeneralDistiller
from stillhouse.errors import PlanError

from .toys import MATCH, batches, general, weights

OWN, DEFAULT = 0.5, 0.1
MATCHES = [MATCH | {"proj": ["linear", 6, 8, {"lr": OWN}]}, MATCH]
Make = Callable[[Optimizer], Any]


def two_groups(model: nn.Module) -> torch.optim.SGD:
    """A group with its own learning rate, and one of the optimizer's."""
    return torch.optim.SGD([{"params": list(model.layers.parameters()), "lr": 0.2},
                            {"params": [*model.out.parameters(), *model.pooler.parameters()]}], lr=DEFAULT)


def rates_alone(make: Make, steps: int) -> list[list[float]]:
    """Each step's learning rates of the two groups, with nothing but torch."""
    optimizer = two_groups(general(None).model_S)
    scheduler, rates = make(optimizer), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
    return rates


def rates_of(distiller: GeneralDistiller, optimizer: Optimizer, scheduler: Any, steps: int,
             **changes: Any) -> list[list[float]]:
    """The learning rates that each step of a training was done with."""
    rates: list[list[float]] = []
    handle = optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: rates.append([group["lr"] for group in optimizer.param_groups]))
    distiller.train(optimizer, batches(4), num_steps=steps, scheduler=scheduler, **changes)
    handle.remove()
    return rates


def halving(step: int) -> float:
    return 0.5 ** step


def warming(step: int) -> float:
    return min(1.0, (step + 1) / 3)


SCHEDULES: dict[str, Make] = {
    "LambdaLR": lambda o: LambdaLR(o, halving),
    "LambdaLR with a list": lambda o: LambdaLR(o, [warming, halving]),
    "StepLR": lambda o: StepLR(o, step_size=2, gamma=0.3),
    "LinearLR": lambda o: LinearLR(o, 0.1, 1.0, total_iters=3),
    "SequentialLR": lambda o: SequentialLR(o, [ConstantLR(o, 0.2, total_iters=10), LambdaLR(o, halving)], [2]),
    "Hugging Face": lambda o: get_linear_schedule_with_warmup(o, num_warmup_steps=2, num_training_steps=6),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_projections_rise_and_fall_in_proportion_at_every_step(tmp_path: Path, name: str) -> None:
    distiller = general(tmp_path, intermediate_matches=MATCHES)
    optimizer = two_groups(distiller.model_S)
    scheduler = SCHEDULES[name](optimizer)
    found = rates_of(distiller, optimizer, scheduler, 6)
    alone = rates_alone(SCHEDULES[name], 6)
    assert [rates[:2] for rates in found] == [pytest.approx(rates) for rates in alone]
    shares = [rates[0] / 0.2 for rates in alone]
    assert [rates[2:] for rates in found] == [pytest.approx([share * OWN, share * DEFAULT]) for share in shares]
    assert len(set(shares)) > 1


def test_a_cycle_takes_the_projections_up_to_their_own_rates_and_down_again(tmp_path: Path) -> None:
    def make(optimizer: Optimizer) -> OneCycleLR:
        return OneCycleLR(optimizer, max_lr=[0.2, DEFAULT], total_steps=8, cycle_momentum=False)

    distiller = general(tmp_path, intermediate_matches=MATCHES)
    optimizer = two_groups(distiller.model_S)
    found, alone = rates_of(distiller, optimizer, make(optimizer), 6), rates_alone(make, 6)
    shares = [rates[0] / 0.2 for rates in alone]
    assert found == [pytest.approx([*rates, share * OWN, share * DEFAULT])
                     for rates, share in zip(alone, shares, strict=True)]
    assert 0.9 < max(shares) <= 1


def test_without_projections_the_scheduler_is_used_as_it_is(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    optimizer = two_groups(distiller.model_S)
    assert rates_of(distiller, optimizer, LambdaLR(optimizer, halving), 5) == [
        pytest.approx(rates) for rates in rates_alone(lambda o: LambdaLR(o, halving), 5)]


def test_the_same_scheduler_goes_on_in_a_second_training(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=MATCHES)
    optimizer = two_groups(distiller.model_S)
    scheduler = LambdaLR(optimizer, halving)
    found = [rates for _ in range(2) for rates in rates_of(distiller, optimizer, scheduler, 3)]
    assert found == [pytest.approx([0.2 * 0.5**i, DEFAULT * 0.5**i, OWN * 0.5**i, DEFAULT * 0.5**i]) for i in range(6)]


def test_a_new_scheduler_in_a_second_training_starts_from_every_groups_own_rate(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=MATCHES)
    optimizer = two_groups(distiller.model_S)
    found = [rates for _ in range(2) for rates in rates_of(distiller, optimizer, LambdaLR(optimizer, halving), 3)]
    assert found == [pytest.approx([lr * 0.5**i for lr in (0.2, DEFAULT, OWN, DEFAULT)]) for i in range(3)] * 2


def test_a_resumed_training_has_the_learning_rates_of_an_uninterrupted_one(tmp_path: Path) -> None:
    def train(folder: Path, resume: bool = False, stop: bool = False) -> tuple[list[list[float]], torch.Tensor]:
        distiller = general(folder, intermediate_matches=MATCHES, training={"resume": resume, "ckpt_steps": 2})

        def callback(model: nn.Module, step: int) -> None:
            if stop and step == 4:
                raise KeyboardInterrupt

        optimizer = two_groups(distiller.model_S)
        scheduler, rates = get_linear_schedule_with_warmup(optimizer, 2, 8), []
        optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs: rates.append([group["lr"] for group in optimizer.param_groups]))
        try:
            distiller.train(optimizer, batches(4), num_steps=7, scheduler=scheduler, callback=callback)
        except KeyboardInterrupt:
            assert stop
        return rates, torch.cat([weights(distiller.model_S), weights(distiller.plan.objective)])

    torch.manual_seed(0)
    whole, wanted = train(tmp_path / "whole")
    torch.manual_seed(0)
    before, _ = train(tmp_path / "cut", stop=True)
    after, found = train(tmp_path / "cut", resume=True)
    assert (len(before), len(after)) == (4, 3) and before + after == whole
    assert torch.equal(found, wanted)


def test_a_scheduler_class_is_built_when_the_projections_have_joined(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=MATCHES)
    optimizer = two_groups(distiller.model_S)
    for _ in range(2):
        rates = rates_of(distiller, optimizer, None, 3, scheduler_class=LambdaLR, scheduler_args={"lr_lambda": halving})
        assert rates == [pytest.approx([lr * 0.5**i for lr in (0.2, DEFAULT, OWN, DEFAULT)]) for i in range(3)]


def test_two_ways_to_give_a_scheduler_at_once_are_refused(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    optimizer = two_groups(distiller.model_S)
    with pytest.raises(PlanError, match=r"scheduler_class= .* or scheduler=, not both"):
        distiller.train(optimizer, batches(1), num_epochs=1, scheduler=LambdaLR(optimizer, halving),
                        scheduler_class=StepLR, scheduler_args={"step_size": 1})


def test_a_scheduler_that_waits_for_a_metric_is_refused(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=MATCHES)
    optimizer = two_groups(distiller.model_S)
    with pytest.raises(PlanError, match="ReduceLROnPlateau waits for a metric"):
        distiller.train(optimizer, batches(1), num_epochs=1, scheduler=ReduceLROnPlateau(optimizer))
