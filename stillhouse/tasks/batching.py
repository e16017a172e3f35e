"""Tokenised rows, and batches of them: shuffled, of similar length, padded to the batch's longest row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from stillhouse.errors import ConfigError
from stillhouse.training import distributed

BATCHES_SORTED_TOGETHER = 50
"""Large enough that rows of a batch are nearly equally long, small enough that batches are mixed anew each epoch."""

Lengths = np.ndarray[Any, np.dtype[np.int64]]


@final
@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """The rows of a split as token ids, without padding, in the order of the data."""

    input_ids: Sequence[Sequence[int]]
    token_type_ids: Sequence[Sequence[int]] | None
    """As long as ``input_ids``, for tokenizers that tell the two texts of a pair apart so."""
    labels: Tensor
    """(N,), int64."""
    pad_token_id: int
    pad_token_type_id: int = 0
    padding_side: Literal["left", "right"] = "right"

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def lengths(self) -> Lengths:
        """(N,): the number of tokens of each row."""
        return np.fromiter(map(len, self.input_ids), dtype=np.int64, count=len(self))

    @property
    def mean_length(self) -> float:
        """Tokens a row."""
        return float(self.lengths.mean())

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and, where there are any, ``token_type_ids``, (B, L); ``labels`` (B,).

        L is the length of the longest of these rows.
        """
        index = torch.as_tensor(rows)
        lengths = torch.from_numpy(self.lengths)[index].unsqueeze(1)
        longest = int(lengths.max())
        positions = torch.arange(longest)
        kept = positions < lengths if self.padding_side == "right" else positions >= longest - lengths
        batch = {"input_ids": _filled(self.input_ids, rows, kept, self.pad_token_id), "attention_mask": kept.long()}
        if self.token_type_ids is not None:
            batch["token_type_ids"] = _filled(self.token_type_ids, rows, kept, self.pad_token_type_id)
        batch["labels"] = self.labels[index]
        return batch


def _filled(values: Sequence[Sequence[int]], rows: Sequence[int], kept: Tensor, padding: int) -> Tensor:
    """(B, L): the rows' values where they are kept, the padding elsewhere."""
    filled = torch.full(kept.shape, padding)
    filled[kept] = torch.tensor(list(chain.from_iterable(values[row] for row in rows)))
    return filled


@final
class BucketSampler:
    """The rows of each batch of an epoch, every row once; a function of seed and epoch alone.

    Shuffled: the rows are shuffled and cut into stretches of 50 batches, each stretch is sorted by length and cut into
    batches, and all batches are shuffled. Otherwise: the rows in their order. Only one batch of an epoch may be
    smaller than ``batch_size``. Of several ranks each gets every so-manieth batch; ``len`` is the largest share, so
    that it is the same on all ranks. Raises `ConfigError` for a batch size below 1.
    """

    def __init__(self, lengths: Lengths, *, batch_size: int, seed: int, shuffle: bool) -> None:
        if batch_size < 1:
            raise ConfigError(f"a batch size of {batch_size}: give a number of rows of 1 or more")
        self.lengths, self.batch_size, self.seed, self.shuffle = lengths, batch_size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self._num_batches // distributed.world_size())

    def __iter__(self) -> Iterator[list[int]]:
        # The order is fixed here, not when the first batch is taken: `set_epoch` may be called in between.
        return iter(self._batches()[distributed.rank() :: distributed.world_size()])

    @property
    def _num_batches(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def _batches(self) -> list[list[int]]:
        starts = range(0, len(self.lengths), self.batch_size)
        if not self.shuffle:
            return [list(range(start, min(start + self.batch_size, len(self.lengths)))) for start in starts]
        # numpy promises that this generator gives the same numbers in every later version.
        random = np.random.RandomState([self.seed % 2**32, self.epoch])
        rows = random.permutation(len(self.lengths))
        stretch = BATCHES_SORTED_TOGETHER * self.batch_size
        for start in range(0, len(rows), stretch):
            part = rows[start : start + stretch]
            rows[start : start + stretch] = part[np.argsort(self.lengths[part], kind="stable")]
        return [rows[starts[i] : starts[i] + self.batch_size].tolist() for i in random.permutation(len(starts))]


@final
class BucketLoader:
    """Padded batches of an `EncodedSplit`; ``batch_sampler.set_epoch`` says which epoch the next iteration is."""

    def __init__(self, encoded: EncodedSplit, batch_sampler: BucketSampler) -> None:
        self.encoded, self.batch_sampler = encoded, batch_sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return map(self.encoded.batch, self.batch_sampler)
