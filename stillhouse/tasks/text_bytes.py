"""Texts as rows of bytes: what a teacher reads that is a function of texts and has no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch

from stillhouse.errors import DataError
from stillhouse.tasks.batching import Lengths
from stillhouse.teachers.called import END_OF_TEXT

_Ids = np.ndarray[Any, np.dtype[np.int16]]


@final
@dataclass(frozen=True, eq=False)
class TextBytes:
    """Rows of one text or two, as the bytes of UTF-8 and a mark behind each text. `text_rows` makes them.

    Row by row the same in every batch but for padding to the right, so that a cache knows a row by its text.
    """

    first: Sequence[_Ids]
    second: Sequence[_Ids] | None = None

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def lengths(self) -> Lengths:
        """(N,): the number of bytes of each row, marks included."""
        lengths = np.fromiter(map(len, self.first), dtype=np.int64, count=len(self))
        if self.second is not None:
            lengths += np.fromiter(map(len, self.second), dtype=np.int64, count=len(self))
        return lengths

    def batch(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, Any]:
        """``input_ids``, ``attention_mask`` and ``token_type_ids`` (1 in the second text), each (B, L) of int64."""
        shape = (len(rows), int(self.lengths[list(rows)].max()))
        ids_BL, mask_BL, types_BL = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        for place, row in enumerate(rows):
            middle, end = len(self.first[row]), int(self.lengths[row])
            ids_BL[place, :middle] = self.first[row]
            mask_BL[place, :end] = 1
            if self.second is not None:
                ids_BL[place, middle:end] = self.second[row]
                types_BL[place, middle:end] = 1
        return {"input_ids": torch.from_numpy(ids_BL), "attention_mask": torch.from_numpy(mask_BL),
                "token_type_ids": torch.from_numpy(types_BL)}


def text_rows(texts: Sequence[str], pairs: Sequence[str] | None = None) -> TextBytes:
    """Rows for a `CalledTeacher`: a text each, or a text and that of ``pairs``.

    Raises `DataError` for numbers of texts that differ, and for a text with half a character in it.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} first texts and {len(pairs)} second ones; give as many of both")
    return TextBytes([_ids(text, row) for row, text in enumerate(texts)],
                     None if pairs is None else [_ids(text, row) for row, text in enumerate(pairs)])


def _ids(text: str, row: int) -> _Ids:
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"text {row + 1}: {text!r:.80} holds half of a surrogate pair, which is no character; "
                        "remove it") from error
    return np.append(np.frombuffer(content, dtype=np.uint8).astype(np.int16), np.int16(END_OF_TEXT))
