"""Asking a model, or whatever teaches, for its answers to encoded rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from stillhouse.adaptors import Adaptor
from stillhouse.batches import as_batch, to_device, windows
from stillhouse.modes import device_of, evaluation
from stillhouse.tasks.batching import EncodedRows, require_batch_size
from stillhouse.teachers import TeacherSource
from stillhouse.types import Features, Key

Answers = Iterator[tuple[list[int], Features]]
"""Row numbers and what was said of them, batch by batch, every row once. Tensors are on the CPU, halves as float32."""


def answers(
    model: nn.Module,
    adaptor: Adaptor,
    encoded: EncodedRows,
    keys: frozenset[Key],
    *,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> Answers:
    """What a model says, in eval mode and without a graph, on its own device; afterwards its modes are as before."""
    device = device_of(model)
    enabled = autocast_dtype is not None
    with torch.no_grad(), evaluation(model):
        for rows in _longest_first(encoded, batch_size):
            inputs = to_device(encoded.batch(rows), device)
            with torch.autocast(device.type, autocast_dtype, enabled=enabled):
                found = adaptor.run(model, inputs, keys, {}).features
            yield rows, _plain(found)


def source_answers(source: TeacherSource, encoded: EncodedRows, keys: frozenset[Key], *, batch_size: int) -> Answers:
    """What a teacher source says: several models together, or stored numbers."""
    for rows in _longest_first(encoded, batch_size):
        yield rows, _plain(source.signals(as_batch(encoded.batch(rows)), keys))


def _longest_first(encoded: EncodedRows, batch_size: int) -> Iterator[list[int]]:
    """Batches of row numbers. The longest rows come first, so that memory runs out at once or not at all."""
    require_batch_size(batch_size)
    return windows(encoded.lengths.argsort(kind="stable")[::-1].tolist(), batch_size)


def _plain(features: Features) -> Features:
    return {key: value.float().cpu() for key, value in features.items()}
