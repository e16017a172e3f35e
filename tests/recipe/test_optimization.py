"""Promises of a recipe's optimizer, learning rate and checkpoints."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stillhouse.recipe.optimization import (
    adamw,
    learning_rate_factor,
    learning_rate_schedule,
    save_policy,
    warmup_steps,
)
from stillhouse.recipe.schema import StudentTraining


def settings(**values: object) -> StudentTraining:
    return StudentTraining.model_validate(values)


def test_biases_and_normalisation_weights_do_not_decay() -> None:
    model, projection = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Embedding(4, 3)), nn.Linear(3, 5)
    optimizer = adamw([model, projection], learning_rate=0.1, weight_decay=0.3)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"0.weight": 0.3, "0.bias": 0, "1.weight": 0, "1.bias": 0, "2.weight": 0.3}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == expected
    assert decay[id(projection.weight)] == 0.3 and decay[id(projection.bias)] == 0


def test_what_is_frozen_is_not_trained() -> None:
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    assert [len(group["params"]) for group in adamw([model], 0.1, 0.1).param_groups] == [1]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_the_learning_rate_rises_in_the_warmup_then_falls(name: str) -> None:
    factor = learning_rate_factor(name, 4, 10)
    values = [factor(step) for step in range(11)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    expected = {"linear": [1 - i / 6 for i in range(7)],
                "cosine": [0.5 + 0.5 * math.cos(math.pi * i / 6) for i in range(7)],
                "constant": [1.0] * 7}[name]
    assert values[4:] == pytest.approx(expected)
    assert all(value > 0 for value in values[:10])  # no step is without effect


def test_the_scheduler_sets_the_rate_of_the_next_step() -> None:
    optimizer = adamw([nn.Linear(2, 2)], 0.5, 0.0)
    scheduler = learning_rate_schedule(optimizer, "linear", 0, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125])


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 10), ("7 steps", 7), ("2 epochs", 50), ("9 epochs", 100), (0, 0)])
def test_a_warmup_is_a_share_or_steps_or_epochs(warmup: object, steps: int) -> None:
    assert warmup_steps(settings(warmup=warmup), steps_per_epoch=25, total_steps=100) == steps


@pytest.mark.parametrize(("values", "due"), [
    ({"epochs": 4}, {10, 20, 30, 40}),
    ({"epochs": 4, "evaluate_every": "3 epochs"}, {30, 40}),
    ({"epochs": 4, "evaluate_every": "15 steps"}, {15, 30}),
    ({"steps": 35}, {10, 20, 30}),
    ({"steps": 35, "evaluate_every": 0.2}, {7, 14, 21, 28, 35}),
])
def test_checkpoints_come_as_often_as_asked(values: dict[str, object], due: set[int]) -> None:
    own = settings(**values)
    total = own.steps or 40
    policy = save_policy(own, 10, total)
    found = {step for step in range(1, total + 1) if policy.after_step(step)}
    if own.epochs:
        found |= {epoch * 10 for epoch in range(1, 5) if policy.after_epoch(epoch)}
    assert found == due


def test_the_fused_optimizer_is_taken_on_the_cpu() -> None:
    model = nn.Linear(2, 2)
    assert adamw([model], 0.1, 0.0).param_groups[0]["fused"] is True
    model(torch.ones(1, 2)).sum().backward()
