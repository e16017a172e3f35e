"""How large and how fast a model is, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stillhouse.batches import to_device
from stillhouse.model_size import count_parameters, size_bytes
from stillhouse.modes import device_of, evaluation
from stillhouse.recipe.fitting import Ground
from stillhouse.tasks.batching import EncodedRows
from stillhouse.training import Precision

_WARM_UP = 3
_BATCHES = {1: 50, 8: 12, 32: 8}
"""How many batches of each size are measured."""
_LONGEST_S = 3.0
"""After this time no further batch of a size is begun, if one was measured."""


def size_and_speed(model: nn.Module, rows: EncodedRows, ground: Ground, precision: Precision) -> dict[str, Any]:
    """``parameters``, ``size_bytes``, ``latency_ms`` (single rows), ``throughput_rows_per_s`` (batches of 32) and
    ``latency_by_batch``: both for batches of 1, 8 and 32 rows.

    Times are medians, over the first rows of a split in their order, again from the first if there are too few;
    tokenising is not counted.
    """
    by_batch = {str(size): speed(size, statistics.median(_seconds(model, rows, _batches(len(rows), size, number),
                                                                  ground, precision)))
                for size, number in _BATCHES.items()}
    return _by_name(count_parameters(model), size_bytes(model), by_batch)


def together(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sizes and speeds of models that answer one after another, as those of one; nothing of none."""
    if len(models) < 2:
        return dict(models[0]) if models else {}
    by_batch = {str(size): speed(size, sum(one["latency_by_batch"][str(size)]["ms"] for one in models) / 1000)
                for size in _BATCHES}
    return _by_name(sum(one["parameters"] for one in models), sum(one["size_bytes"] for one in models), by_batch)


def speed(size: int, time_s: float) -> dict[str, float]:
    """``ms`` of a batch of so many rows, and ``rows_per_s``."""
    return {"ms": round(1000 * time_s, 3), "rows_per_s": round(size / time_s, 1)}


def _by_name(num_parameters: int, num_bytes: int, by_batch: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return {"parameters": num_parameters, "size_bytes": num_bytes, "latency_ms": by_batch["1"]["ms"],
            "throughput_rows_per_s": by_batch["32"]["rows_per_s"], "latency_by_batch": by_batch}


def _batches(num_rows: int, size: int, number: int) -> list[list[int]]:
    """Batches of rows in their order, as many as there are full ones, but at least one and at most ``number``."""
    starts = range(0, max(1, num_rows - size + 1), size)[:number]
    return [[(start + place) % num_rows for place in range(size)] for start in starts]


def _seconds(model: nn.Module, rows: EncodedRows, batches: Sequence[Sequence[int]], ground: Ground,
             precision: Precision) -> list[float]:
    device, adaptor = device_of(model), ground.task.adaptor()
    inputs = [to_device(rows.batch(batch), device) for batch in batches]
    seconds: list[float] = []
    warm_up = len(inputs[:_WARM_UP])
    with torch.no_grad(), evaluation(model), precision.autocast(device):
        for batch in inputs[:_WARM_UP] + inputs:
            if len(seconds) > warm_up and sum(seconds) > _LONGEST_S:
                break
            _wait(device)
            started = time.perf_counter()
            adaptor.run(model, batch, ground.task.reads, {})
            _wait(device)
            seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
