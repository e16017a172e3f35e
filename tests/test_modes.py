"""Modes of sub-modules come back, whatever happens inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.modes import device_of, evaluation, restored, training


def mixed() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)), nn.Dropout())
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0
    return model


def flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize(("context", "inside"), [(evaluation, False), (training, True)])
@pytest.mark.parametrize("fails", [False, True])
def test_each_flag_is_restored(context: Callable[..., Any], inside: bool, fails: bool) -> None:
    model = mixed()
    before = flags(model)
    assert len(set(before)) == 2
    try:
        with context(model):
            assert set(flags(model)) == {inside}
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert flags(model) == before


def test_changes_made_inside_are_undone() -> None:
    one, two = mixed(), mixed().eval()
    before = flags(one), flags(two)
    with restored(one, two):
        one.eval()
        two.train()
    assert (flags(one), flags(two)) == before


def test_a_model_without_tensors_is_on_the_cpu() -> None:
    assert device_of(nn.Dropout()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")) == torch.device("meta")
