"""Clipping, also of gradients that only some rows of a table have."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm


def clip(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients so that their norm, of all of them together, is at most ``max_norm``; the norm before.

    A sparse gradient counts like the dense one that it stands for.
    """
    trained = list(parameters)
    if not any(parameter.grad is not None and parameter.grad.is_sparse for parameter in trained):
        return clip_grad_norm_(trained, max_norm)
    values = [_values(parameter) for parameter in trained if parameter.grad is not None]
    norm = get_total_norm(values)
    torch._foreach_mul_(values, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _values(parameter: Tensor) -> Tensor:
    """The memory of what is not zero in a gradient, each element once."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient
    parameter.grad = gradient.coalesce()
    return parameter.grad.values()
