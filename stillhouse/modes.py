"""Switching modules between training and evaluation without forgetting how each sub-module was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def evaluation(*models: nn.Module) -> Iterator[None]:
    """Every sub-module in eval mode inside; each sub-module's own flag restored afterwards."""
    with restored(*models):
        for model in models:
            model.eval()
        yield


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """The model in train mode inside; each sub-module's own flag restored afterwards."""
    with restored(model):
        model.train()
        yield


@contextmanager
def restored(*models: nn.Module) -> Iterator[None]:
    """Whatever happens inside, each sub-module's own flag is as before afterwards."""
    flags = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU for a model without any."""
    for tensor in chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")
