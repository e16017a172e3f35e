"""Micro-batches: splitting the user's batches, moving them, cutting them into rows, and naming rows by content."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from stillhouse.types import BESIDE_INPUTS, Batch

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]
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
    """Every tensor inside tuples, lists and mappings on the device; what is there already is not copied.

    A device goes on while it is being copied to; a copy to the CPU is whole when this returns.
    """
    return _each_tensor(value, lambda tensor: tensor.to(device, non_blocking=device.type != "cpu"))


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each_tensor(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_each_tensor(item, change) for item in value)
    return value


def batch_to_device(batch: Batch, device: torch.device) -> Batch:
    """The student's side on the device (and the teacher's, when both are one)."""
    student = to_device(batch.student, device)
    teacher = student if batch.teacher is batch.student else batch.teacher
    return dataclasses.replace(batch, student=student, teacher=teacher)


def batch_in_pinned_memory(batch: Batch) -> Batch:
    """Both sides and the answers in page-locked memory."""
    def pinned(value: Any) -> Any:
        return _each_tensor(value, Tensor.pin_memory)

    student = pinned(batch.student)
    teacher = student if batch.teacher is batch.student else pinned(batch.teacher)
    return dataclasses.replace(batch, student=student, teacher=teacher, answers=pinned(batch.answers))


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
    kept = as_array(mask) != 0
    kept = kept.any(axis=1) if kept.ndim == 3 else kept
    starts = kept.argmax(axis=1).tolist()
    ends = (kept.shape[1] - kept[:, ::-1].argmax(axis=1)).tolist()
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def row_keys(inputs: Any, exclude: Iterable[str] = BESIDE_INPUTS) -> list[bytes]:
    """A 16-byte name for each row: a hash of its own inputs, without padding, so that it is the same in any batch.

    ``inputs`` must have rows (`num_rows`). Labels do not count: the teacher's answer does not depend on them. Padding
    is cut off `POSITIONAL` tensors alone: another may be as wide by chance. Padding to the left counts, because it
    moves the positions that a model with absolute position embeddings sees.
    """
    row_spans, left_out = spans(inputs), set(exclude)
    columns = [_Column.of(name, tensor, inputs, row_spans) for name, tensor in tensors_of(inputs)
               if name not in left_out]
    keys = []
    for row in range(len(columns[0].values)):
        digest = hashlib.blake2b(digest_size=16)
        if row_spans is not None and row_spans[row].start > 0:
            digest.update(b"from %d;" % row_spans[row].start)
        for column in columns:
            column.add_to(digest, row)
        keys.append(digest.digest())
    return keys


class _Column(NamedTuple):
    """One of the inputs' tensors, row by row: its name and type, and where it has padding."""

    title: bytes
    values: Array
    row_spans: list[slice] | None
    axis: int

    @classmethod
    def of(cls, name: str, tensor: Tensor, inputs: Any, row_spans: list[slice] | None) -> _Column:
        axis = 0
        if row_spans is not None:
            mask = inputs["attention_mask"]
            axis = mask.dim() - 2  # of positions, in one row
            if name not in POSITIONAL or tensor.dim() - 1 <= axis or tensor.shape[axis + 1] != mask.shape[-1]:
                row_spans = None
        return cls(f"{name} {tensor.dtype} ".encode(), as_array(tensor), row_spans, axis)

    def add_to(self, digest: hashlib.blake2b, row: int) -> None:
        value = self.values[row]
        if self.row_spans is not None:
            value = value[self.row_spans[row]] if self.axis == 0 else value[:, self.row_spans[row]]
        digest.update(b"%s%s;" % (self.title, str(value.shape).encode()))
        digest.update(value.tobytes())


def as_array(tensor: Tensor) -> Array:
    """A tensor's values as numpy sees them, shared where the tensor is on the CPU; bfloat16 as its 16 bits."""
    tensor = tensor.detach().cpu()
    array: Array = (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


def bytes_of(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor's values in row-major order."""
    return as_array(tensor).tobytes()
