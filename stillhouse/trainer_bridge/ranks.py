"""Several processes, where the loop wraps the student alone and knows nothing of the losses' parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stillhouse.training.distributed import sum_over_ranks, world_size


def call_through(wrapper: nn.Module, student: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, run in place of the student's forward inside the forward of what wraps the student.

    What averages gradients over ranks has to see the call, and every output that a gradient will come from. The
    function may call the student as often as it likes; that runs the student itself.
    """
    if wrapper is student:
        return function(*args)
    attributes = vars(student)
    own = attributes.get("forward")  # accelerate puts one there for mixed precision

    def restore() -> None:
        if own is None:
            attributes.pop("forward", None)
        else:
            attributes["forward"] = own

    def once(*given: Any) -> Any:
        restore()
        return function(*given)

    attributes["forward"] = once
    try:
        return wrapper(*args)
    finally:
        restore()


def take_from_first_rank(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if world_size() == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), src=0)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Average over ranks what the student's wrapper does not know of. All ranks must name the same parameters."""
    if world_size() == 1:
        return
    for parameter in parameters:
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = sum_over_ranks(own) / world_size()
