"""Ranks: who we are, sums over all of us, and how everyone keeps step.

Each collective operation is a no-op in a single process, so the loop does not ask.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stillhouse.batches import ghost_of
from stillhouse.errors import DataError
from stillhouse.types import Batch


def start(device: torch.device) -> None:
    """Join the process group that a launcher (accelerate, torchrun) announced, if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")


def rank() -> int:
    """This process's number, 0 for a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files."""
    return rank() == 0


def wait_for_all() -> None:
    """Return when every rank got here."""
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over ranks, on every rank."""
    if world_size() == 1:
        return tensor
    sent = tensor.detach().to(_wire_device(), copy=True)
    dist.all_reduce(sent)
    return sent.to(tensor.device)


def _wire_device() -> torch.device:
    """Where tensors must be for a collective operation: nccl only moves those of a CUDA device."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def same_on_all(value: Any) -> Any:
    """Rank 0's value, on every rank (a small object that pickles)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def wrap(bundle: nn.Module) -> nn.Module:
    """The module to call in training: wrapped for gradient averaging if there are several ranks.

    Parameters that a step does not reach are looked for, since what an objective reaches may change from step to step
    (schedules, tasks, optional terms) and many models hold parts that nothing uses; without, ranks fail or disagree.
    """
    if world_size() == 1:
        return bundle
    return DistributedDataParallel(bundle, find_unused_parameters=True)


def synchronised(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients are averaged over ranks only in the last micro-batch of a window."""
    if is_last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def aligned(own_windows: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
    """The same number of windows, of the same lengths, on every rank: what a rank lacks are ghosts."""
    if world_size() == 1:
        yield from own_windows
        return
    iterator = iter(own_windows)
    template: Batch | None = None
    while True:
        window = next(iterator, [])
        longest = torch.tensor([len(window)], device=_wire_device())
        dist.all_reduce(longest, op=dist.ReduceOp.MAX)
        if longest.item() == 0:
            return
        template = window[-1] if window else template
        if template is None:
            raise DataError(f"rank {rank()} has no data while others do; give every rank at least one batch")
        yield window + [ghost_of(template)] * (int(longest.item()) - len(window))
