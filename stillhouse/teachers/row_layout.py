"""Cutting a batch's tensors into rows without padding, and putting rows together again with any padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from stillhouse.batches import Array, as_array, spans
from stillhouse.errors import OutputError
from stillhouse.teachers.stores import Values
from stillhouse.types import ATTENTION_SCORES, GRAM, Key

LOWEST_SCORE = -1e4
"""What models add to the scores of padding."""


@final
@dataclass(frozen=True)
class RowLayout:
    """How the values of a batch's rows lie along its positions.

    Attributes:
        row_spans: the positions of each row that are no padding; None if nothing tells padding.
        length: how many positions there are, with padding.
        choices: how many texts a row has; 0 for one. All but logits have a value for each text.
        has_spans: whether logits are one number a position, as for the start and the end of an answer.
    """

    row_spans: list[slice] | None
    length: int = 0
    choices: int = 0
    has_spans: bool = False

    @classmethod
    def of(cls, inputs: Any) -> RowLayout:
        """That of a teacher's inputs."""
        row_spans = spans(inputs)
        if row_spans is None:
            return cls(None)
        mask, ids = inputs["attention_mask"], inputs.get("input_ids")
        has_choices = mask.dim() == 3 and ids is not None and ids.shape == mask.shape
        return cls(row_spans, mask.shape[-1], mask.shape[1] if has_choices else 0, "span_mask" in inputs)

    def cut(self, key: Key, value: Tensor, size: int) -> list[Values]:
        """The value of each of ``size`` rows, without its padding. Raises `OutputError` for another shape."""
        num_texts = size * self.choices if self._of_choices(key) else size
        fits = value.dim() > 0 and value.shape[0] == num_texts
        if fits and self._of_choices(key):
            value = value.unflatten(0, (size, self.choices))
        axes = self._axes(key, value.dim() - 1)
        if not fits or any(value.shape[axis + 1] != self.length for axis in axes):
            raise OutputError(f"the teacher's {key} of shape {tuple(value.shape)} cannot be cached row by row: it "
                              f"should start with {num_texts} rows and cover {self.length or 'all'} positions; switch "
                              "the cache off")
        whole = Values.of(value)
        return [Values(whole.dtype, row[self._place(axes, i, row.ndim)]) for i, row in enumerate(whole.array)]

    def joined(self, key: Key, rows: Sequence[Values]) -> Tensor:
        """The rows as one tensor of this layout, with zeros (no attention, no answer) where it pads.

        Raises `OutputError` if they do not fit together.
        """
        first = rows[0].array
        axes = self._axes(key, first.ndim)
        if not axes:
            full = np.stack([row.array for row in self._of_one_shape(key, rows)])
        elif axes == (0,) and self.row_spans is not None:  # nearly always: what is filled twice takes twice as long
            full = np.empty((len(rows), self.length, *first.shape[1:]), first.dtype)
            fill = self._fill(key, rows[0].dtype)
            for target, row, span in zip(full, rows, self.row_spans, strict=True):
                target[: span.start] = fill
                target[span] = row.array
                target[span.stop :] = fill
        else:
            shape = [self.length if axis in axes else size for axis, size in enumerate(first.shape)]
            full = np.full((len(rows), *shape), self._fill(key, rows[0].dtype))
            for i, row in enumerate(rows):
                full[i][self._place(axes, i, first.ndim)] = row.array
        tensor = Values(rows[0].dtype, full).tensor()
        return tensor.flatten(0, 1) if self._of_choices(key) else tensor

    def has_features_last(self, key: Key, dims: int) -> bool:
        """Whether the last axis of a tensor of ``dims`` axes (the first being that of rows) holds features."""
        if key.kind == "logits" or self.row_spans is None:
            return False
        row_dim = dims if self._of_choices(key) else dims - 1
        return row_dim > 0 and row_dim - 1 not in self._axes(key, row_dim)

    def _of_choices(self, key: Key) -> bool:
        """Whether a row's value is one for each of its choices."""
        return self.choices > 0 and key.kind != "logits"

    def _axes(self, key: Key, row_dim: int) -> tuple[int, ...]:
        """The axes of one row's value that run over positions."""
        if self.row_spans is None:
            return ()
        if key.kind.startswith("attention") or key.form == GRAM:
            return (row_dim - 2, row_dim - 1)
        if key.kind == "logits" and self.has_spans:
            return (row_dim - 1,)
        return (row_dim - 2,) if row_dim == (3 if self._of_choices(key) else 2) else ()

    def _place(self, axes: tuple[int, ...], row: int, dims: int) -> tuple[slice, ...]:
        """Where in a padded row its values are."""
        if not axes:
            return (slice(None),) * dims
        assert self.row_spans is not None
        span = self.row_spans[row]
        return tuple(span if axis in axes else slice(None) for axis in range(dims))

    def _fill(self, key: Key, dtype: torch.dtype) -> Array:
        """What stands in padding, as numpy holds a number of this type."""
        fill = LOWEST_SCORE if key.kind == ATTENTION_SCORES else 0.0
        if key.kind == "logits" and self.has_spans:
            fill = -torch.inf
        return as_array(torch.tensor(fill, dtype=dtype))

    def _of_one_shape(self, key: Key, rows: Sequence[Values]) -> Sequence[Values]:
        shapes = {row.array.shape for row in rows}
        if len(shapes) > 1:
            raise OutputError(f"the teacher's {key} has other shapes in batches of other padding "
                              f"({', '.join(sorted(map(str, shapes)))} a row), so its rows cannot be put together "
                              "again; switch the cache off, or pad every batch to one length")
        return rows
