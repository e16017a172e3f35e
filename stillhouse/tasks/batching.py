"""Tokenised rows, and batches of them: shuffled, of similar length, padded to the batch's longest row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stillhouse.errors import ConfigError
from stillhouse.tasks.token_rows import TokenRows
from stillhouse.training import distributed

BATCHES_SORTED_TOGETHER = 50
"""Large enough that rows of a batch are nearly equally long, small enough that batches are mixed anew each epoch."""

Lengths = np.ndarray[Any, np.dtype[np.int64]]


class EncodedRows(Protocol):
    """What can be cut into batches."""

    def __len__(self) -> int:
        """The number of rows."""

    @property
    def lengths(self) -> Lengths:
        """(N,): the number of tokens of each row; rows of similar length are put together."""

    def batch(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, Any]:
        """The given rows, padded to the longest of them; ``epoch`` is None for an evaluation."""


Change = Callable[[dict[str, Tensor], Sequence[int], "int | None"], dict[str, Tensor]]


@final
@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """The rows of a split as token ids, without padding, in the order of the data.

    Args:
        tokens: columns with one value a token: ``input_ids``, and what else there is (``token_type_ids``, ``labels`` or
            ``logits_mask`` of each token), each (N, length of the row).
        rows: columns with one value, or one tensor, a row, such as ``labels`` (N,).
        padding: what stands for a column's missing tokens; 0 where nothing is said.
        padding_side: where it stands.
        choices: how many consecutive rows of ``tokens`` make one row of the data; 0: each is one.
        change: called with every batch, its row numbers and the epoch (None in an evaluation); gives the batch.
        details: what the task needs to turn answers into those of the data.
    """

    tokens: Mapping[str, TokenRows]
    rows: Mapping[str, Tensor]
    padding: Mapping[str, int]
    padding_side: Literal["left", "right"] = "right"
    choices: int = 0
    change: Change | None = None
    details: Any = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, Sequence[Sequence[int]]],
           rows: Mapping[str, Tensor], **others: Any) -> EncodedSplit:
        """Rows that this tokenizer made, padded as it pads. ``labels`` of tokens are padded with -100."""
        padding = {"input_ids": int(tokenizer.pad_token_id), "token_type_ids": int(tokenizer.pad_token_type_id),
                   "labels": -100}
        side: Literal["left", "right"] = "left" if tokenizer.padding_side == "left" else "right"
        return cls(compact(tokens), rows, padding, side, **others)

    def __len__(self) -> int:
        return len(self.tokens["input_ids"]) // max(1, self.choices)

    @cached_property
    def lengths(self) -> Lengths:
        """(N,): the number of tokens of each row, of its longest choice if it has choices."""
        lengths = self.tokens["input_ids"].lengths
        return lengths.reshape(-1, self.choices).max(axis=1) if self.choices else lengths

    @property
    def mean_length(self) -> float:
        """Tokens a row."""
        return float(self.tokens["input_ids"].lengths.mean()) * max(1, self.choices)

    def batch(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, Any]:
        """``attention_mask`` and every column: (B, L) for those of tokens, (B, choices, L) for rows with choices.

        L is the length of the longest of these rows.
        """
        places = [row * self.choices + k for row in rows for k in range(self.choices)] if self.choices else rows
        lengths = torch.from_numpy(self.tokens["input_ids"].lengths)[torch.as_tensor(places)].unsqueeze(1)
        longest = int(lengths.max())
        positions = torch.arange(longest)
        kept = positions < lengths if self.padding_side == "right" else positions >= longest - lengths
        shape = (len(rows), self.choices, longest) if self.choices else kept.shape
        batch = {name: _filled(values, places, kept, self.padding.get(name, 0)).view(shape)
                 for name, values in self.tokens.items()}
        batch["attention_mask"] = kept.long().view(shape)
        index = torch.as_tensor(rows)
        batch |= {name: values[index] for name, values in self.rows.items()}
        return batch if self.change is None else self.change(batch, rows, epoch)


@final
@dataclass(frozen=True, eq=False)
class TwoSided:
    """The same rows as the student's tokens and as the teacher's, for models that do not read the same ones."""

    student: EncodedSplit
    teacher: EncodedRows

    def __len__(self) -> int:
        return len(self.student)

    @property
    def lengths(self) -> Lengths:
        """(N,): the number of tokens that the student reads."""
        return self.student.lengths

    def batch(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, Any]:
        """``{"student": batch, "teacher": batch}``."""
        return {"student": self.student.batch(rows, epoch), "teacher": self.teacher.batch(rows, epoch)}


def compact(columns: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, TokenRows]:
    """The columns in little memory."""
    return {name: rows if isinstance(rows, TokenRows) else TokenRows(rows) for name, rows in columns.items()}


def _filled(values: TokenRows, rows: Sequence[int], kept: Tensor, padding: int) -> Tensor:
    """(B, L): the rows' values where they are kept, the padding elsewhere."""
    filled = torch.full(kept.shape, padding)
    filled[kept] = torch.from_numpy(values.taken(rows))
    return filled


def require_batch_size(batch_size: int) -> None:
    """Raise `ConfigError` for a batch without rows."""
    if batch_size < 1:
        raise ConfigError(f"a batch size of {batch_size}: give a number of rows of 1 or more")


@final
class BucketSampler:
    """The rows of each batch of an epoch, every row once; a function of seed and epoch alone.

    Shuffled: the rows are shuffled and cut into stretches of 50 batches, each stretch is sorted by length and cut into
    batches, and all batches are shuffled. Otherwise: the rows in their order. Only one batch of an epoch may be
    smaller than ``batch_size``. Of several ranks each gets every so-manieth batch; ``len`` is the largest share, so
    that it is the same on all ranks. Raises `ConfigError` for a batch size below 1.
    """

    def __init__(self, lengths: Lengths, *, batch_size: int, seed: int, shuffle: bool) -> None:
        require_batch_size(batch_size)
        self.lengths, self.batch_size, self.seed, self.shuffle = lengths, batch_size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self._num_batches // distributed.world_size())

    def __iter__(self) -> Iterator[list[int]]:
        # The order is fixed here, not when the first batch is taken: `set_epoch` may be called in between.
        rows, order = self._order()
        size, mine = self.batch_size, order[distributed.rank() :: distributed.world_size()]
        return (rows[i * size : (i + 1) * size].tolist() for i in mine)

    @property
    def _num_batches(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def _order(self) -> tuple[Lengths, Lengths]:
        """The rows, of which each so many are a batch, and the numbers of the batches in their order."""
        if not self.shuffle:
            return np.arange(len(self.lengths)), np.arange(self._num_batches)
        # numpy promises that this generator gives the same numbers in every later version.
        random = np.random.RandomState([self.seed % 2**32, self.epoch])
        rows = random.permutation(len(self.lengths))
        stretch = BATCHES_SORTED_TOGETHER * self.batch_size
        for start in range(0, len(rows), stretch):
            part = rows[start : start + stretch]
            rows[start : start + stretch] = part[np.argsort(self.lengths[part], kind="stable")]
        return rows, random.permutation(self._num_batches)


@final
class BucketLoader:
    """Padded batches of encoded rows; ``batch_sampler.set_epoch`` says which epoch the next iteration is."""

    def __init__(self, encoded: EncodedRows, batch_sampler: BucketSampler) -> None:
        self.encoded, self.batch_sampler = encoded, batch_sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = self.batch_sampler.epoch  # fixed here, as the order is
        return (self.encoded.batch(rows, epoch) for rows in self.batch_sampler)
