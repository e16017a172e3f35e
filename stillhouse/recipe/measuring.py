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
_SINGLE_ROWS = 50
_BATCH_SIZE = 32
_BATCHES = 8


def size_and_speed(model: nn.Module, rows: EncodedRows, ground: Ground, precision: Precision) -> dict[str, Any]:
    """``parameters``, ``size_bytes``, ``latency_ms`` (single rows) and ``throughput_rows_per_s`` (batches of 32).

    Both are medians, over the first rows of a split in their order; tokenising is not counted.
    """
    single = [[i] for i in range(min(_SINGLE_ROWS, len(rows)))]
    size = min(_BATCH_SIZE, len(rows))
    batches = [list(range(start, start + size)) for start in range(0, len(rows) - size + 1, size)][:_BATCHES]
    latency_s = statistics.median(_seconds(model, rows, single, ground, precision))
    batch_s = statistics.median(_seconds(model, rows, batches, ground, precision))
    return {
        "parameters": count_parameters(model), "size_bytes": size_bytes(model),
        "latency_ms": round(1000 * latency_s, 3), "throughput_rows_per_s": round(size / batch_s, 1),
    }


def together(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sizes and speeds of models that answer one after another, as those of one; nothing of none."""
    if len(models) < 2:
        return dict(models[0]) if models else {}
    sums = {name: sum(one[name] for one in models) for name in ("parameters", "size_bytes", "latency_ms")}
    throughput = 1 / sum(1 / one["throughput_rows_per_s"] for one in models)
    return {**sums, "latency_ms": round(sums["latency_ms"], 3), "throughput_rows_per_s": round(throughput, 1)}


def _seconds(model: nn.Module, rows: EncodedRows, batches: Sequence[Sequence[int]], ground: Ground,
             precision: Precision) -> list[float]:
    device, adaptor = device_of(model), ground.task.adaptor()
    inputs = [to_device(rows.batch(batch), device) for batch in batches]
    seconds = []
    with torch.no_grad(), evaluation(model), precision.autocast(device):
        for batch in inputs[:_WARM_UP] + inputs:
            _wait(device)
            started = time.perf_counter()
            adaptor.run(model, batch, ground.task.reads, {})
            _wait(device)
            seconds.append(time.perf_counter() - started)
    return seconds[len(inputs[:_WARM_UP]):]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
