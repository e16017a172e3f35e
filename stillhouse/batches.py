"""Micro-batches: splitting the user's batches, moving them, cutting them into rows, and naming rows by content."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from stillhouse.types import BESIDE_INPUTS, Batch

T = TypeVar("T")
_SIDES = {"teacher", "student"}

POSITIONAL = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "bbox",
                        "span_mask"})
"""Inputs with one value for each position that ``attention_mask`` covers."""



def as_batch(raw: Any, task: str = "default") -> Batch:
    """A user's batch as a `Batch`: ``{"teacher": .., "student": ..}`` is split, anything else serves both sides.

    ``"teacher_cache"`` beside the two holds the teacher's ready-made outputs.
    """
    if isinstance(raw, Mapping) and set(raw) >= _SIDES:
        return Batch(raw["student"], raw["teacher"], task, teacher_outputs=raw.get("teacher_cache"))
    return Batch(raw, raw, task)


def to_device(value: Any, device: torch.device) -> Any:
    """Every tensor inside tuples, lists and mappings on the device; what is there already is not copied."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(to_device(item, device) for item in value)
    return value


def batch_to_device(batch: Batch, device: torch.device) -> Batch:
    """The student's side on the device (and the teacher's, when both are one)."""
    student = to_device(batch.student, device)
    teacher = student if batch.teacher is batch.student else batch.teacher
    return dataclasses.replace(batch, student=student, teacher=teacher)


def ghost_of(batch: Batch) -> Batch:
    """A batch that takes part in every collective operation but counts for nothing."""
    return dataclasses.replace(batch, ghost=True)


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items; the last may be shorter."""
    window: list[T] = []
    for item in items:
        window.append(item)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def tensors_of(inputs: Any) -> list[tuple[str, Tensor]]:
    """The tensors of a tuple or mapping with their names, in a fixed order; other values are left out."""
    if isinstance(inputs, Tensor):
        return [("0", inputs)]
    if isinstance(inputs, Mapping):
        return [(str(name), inputs[name]) for name in sorted(inputs, key=str) if isinstance(inputs[name], Tensor)]
    return [(str(i), value) for i, value in enumerate(inputs) if isinstance(value, Tensor)]


def num_rows(inputs: Any) -> int | None:
    """The number of rows if every tensor of the inputs agrees on its first dimension and nothing else is there."""
    found = tensors_of(inputs)
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    if not found or len(found) != sum(value is not None for value in values):
        return None
    sizes = {tensor.shape[0] if tensor.dim() else None for _, tensor in found}
    return sizes.pop() if len(sizes) == 1 else None


def select_rows(inputs: Any, rows: Sequence[int]) -> Any:
    """The given rows of every tensor of a tuple or mapping."""
    def pick(value: Any) -> Any:
        return value[torch.as_tensor(rows, device=value.device)] if isinstance(value, Tensor) else value

    if isinstance(inputs, Mapping):
        return {name: pick(value) for name, value in inputs.items()}
    return pick(inputs) if isinstance(inputs, Tensor) else tuple(pick(value) for value in inputs)


def spans(inputs: Any) -> list[slice] | None:
    """For each row, from its first to its last position kept by ``attention_mask``; None without such a mask.

    A row of several choices, (B, choices, L), is as long as its longest one.
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is None or mask.dim() not in (2, 3):
        return None
    kept = mask.detach().cpu().ne(0).int()
    kept = kept.amax(dim=1) if kept.dim() == 3 else kept
    length = kept.shape[1]
    starts = kept.argmax(dim=1).tolist()
    ends = (length - kept.flip(1).argmax(dim=1)).tolist()
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def row_keys(inputs: Any, exclude: Iterable[str] = BESIDE_INPUTS) -> list[bytes]:
    """A 16-byte name for each row: a hash of its own inputs, without padding, so that it is the same in any batch.

    ``inputs`` must have rows (`num_rows`). Labels do not count: the teacher's answer does not depend on them. Padding
    is cut off `POSITIONAL` tensors alone: another may be as wide by chance. Padding to the left counts, because it
    moves the positions that a model with absolute position embeddings sees.
    """
    row_spans = spans(inputs)
    length = inputs["attention_mask"].shape[-1] if row_spans is not None else None
    columns = [(name, t.detach().cpu().contiguous()) for name, t in tensors_of(inputs) if name not in set(exclude)]
    keys = []
    for row in range(columns[0][1].shape[0]):
        digest = hashlib.blake2b(digest_size=16)
        if row_spans is not None and row_spans[row].start > 0:
            digest.update(f"from {row_spans[row].start};".encode())
        for name, column in columns:
            value = column[row]
            axis = inputs["attention_mask"].dim() - 2 if row_spans is not None else 0  # of positions, in one row
            if row_spans is not None and name in POSITIONAL and value.dim() > axis and value.shape[axis] == length:
                span = row_spans[row]
                value = value.narrow(axis, span.start, span.stop - span.start)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            digest.update(bytes_of(value))
        keys.append(digest.digest())
    return keys


def bytes_of(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor, any dtype."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
