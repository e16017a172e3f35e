"""How much room a teacher's answers will take in a cache, from the shapes that they will have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from stillhouse.tasks.base import Predicts
from stillhouse.tasks.batching import Lengths
from stillhouse.teachers.kept_forms import kept_types
from stillhouse.teachers.stores import record_bytes
from stillhouse.types import ATTENTION_SCORES, GRAM, Key, module_path

Shape = tuple[int, ...]

_KEY_BYTES = 16
_NO_FEATURES = ("logits", "attention", ATTENTION_SCORES)  # but places or classes along the last axis
# LMDB: pages of 4096 bytes with a header of 16, entries with one of 10. Entries come in random order, which fills the
# pages of a tree to about 70 %. What leaves no room for two in a page gets pages of its own, and an entry to find them.
_PAGE_BYTES, _PAGE_HEADER_BYTES, _ENTRY_BYTES, _FILLED = 4096, 16, 10, 0.7
_MOST_WITHIN_BYTES = 2030 - _KEY_BYTES
_POINTER_BYTES = 8


@final
@dataclass(frozen=True, eq=False)
class AnswerSizes:
    """What a teacher's answers to all rows take.

    Attributes:
        predicts: what its logits are of.
        width: the numbers of a key at one place (see `TeacherSource.width`); None where nothing tells.
        lengths: (N,): the tokens of each row, or of its longest choice.
        choices: the texts that make one row; 0: one, which is no choice.
        num_teachers: how many teachers' logits are kept; layers are those of one of them.
    """

    predicts: Predicts
    width: Callable[[Key], int | None]
    lengths: Lengths
    choices: int = 0
    num_teachers: int = 1

    def total_bytes(self, keys: Iterable[Key], dtype: torch.dtype, *, on_disk: bool) -> int:
        """All rows' answers for the keys, kept in a type (see `stillhouse.teachers.kept_forms` for int8)."""
        keys = list(keys)
        logits = [key for key in keys if key.kind == "logits"]
        others = logits if self.num_teachers > 1 else []  # layers are those of one teacher
        lengths, counts = np.unique(self.lengths, return_counts=True)
        total: float = 0
        for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
            total += count * self._row_bytes(keys, length, dtype, on_disk)
            total += count * self._row_bytes(others, length, dtype, on_disk) * (self.num_teachers - 1)
        return round(total)

    def _row_bytes(self, keys: Sequence[Key], length: int, dtype: torch.dtype, on_disk: bool) -> float:
        if not keys:
            return 0
        size = record_bytes([tensor for key in keys for tensor in self._tensors(key, length, dtype)])
        return _on_disk(size) if on_disk else size + _KEY_BYTES

    def _tensors(self, key: Key, length: int, dtype: torch.dtype) -> list[tuple[Shape, torch.dtype]]:
        shapes = self._shapes(key, length)
        types = kept_types(key, dtype, has_features=key.kind not in _NO_FEATURES)
        # Where there are two parts, the second has one number for each vector of the first.
        return [part for shape in shapes for part in zip((shape, (*shape[:-1], 1)), types, strict=False)]

    def _shapes(self, key: Key, length: int) -> list[Shape]:
        """The tensors of a row's record."""
        texts = (self.choices,) if self.choices else ()
        if key.form == GRAM:
            return [(*texts, length, length)]
        width = self._width(key)
        if key.kind == "logits":
            heads = 2 if self.predicts == "spans" and key.index is None else 1
            return [{"rows": (width,), "tokens": (length, width), "choices": (self.choices,),
                     "spans": (length,)}[self.predicts]] * heads
        if key.kind == "embedding":
            return [(width,)]
        if key.kind in ("attention", ATTENTION_SCORES):
            return [(*texts, width, length, length)]
        return [(*texts, length, width)]

    def _width(self, key: Key) -> int:
        """A module's output is taken to be as wide as a hidden state where nothing tells."""
        return self.width(key) or (self.width(Key("hidden", 0)) if module_path(key) is not None else None) or 1


def _on_disk(record: int) -> float:
    """The share of a tree's pages that a record takes."""
    if record > _MOST_WITHIN_BYTES:
        return -(-(record + _PAGE_HEADER_BYTES) // _PAGE_BYTES) * _PAGE_BYTES + _in_tree(_POINTER_BYTES)
    return _in_tree(record)


def _in_tree(size: int) -> float:
    a_page = (_PAGE_BYTES - _PAGE_HEADER_BYTES) // (size + _KEY_BYTES + _ENTRY_BYTES)
    return _PAGE_BYTES / (_FILLED * a_page)
