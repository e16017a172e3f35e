"""Whether a GPU answers faster than its earlier answers are read: hidden states of long rows are much to read.

An estimate from sizes alone, and never from a clock: the same recipe on the same card has to decide the same way, for
kept answers may be rounded. The rates are those of one card, and of an earlier store (docs/decisions/012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from stillhouse.flops import count_flops

_READ_BYTES_PER_S = 3e9  # from the store into the device's memory, by one thread beside the training
_WRITE_BYTES_PER_S = 0.8e9  # from there into the store
_LAYER_S = 1e-3  # to launch the kernels of a layer, which the smallest batch takes too
_SHARE_OF_PEAK = 0.35
_CLOCK_HZ = 1.6e9
_HALF_FLOPS = {(7, 0): 1024, (7, 5): 1024, (8, 0): 2048, (8, 6): 1024, (8, 9): 1024, (9, 0): 4096, (10, 0): 8192}
"""Of one multiprocessor in a cycle, in 16 bits without sparsity, by compute capability (NVIDIA's data sheets)."""
_SINGLE_FLOPS = {(7, 0): 128, (7, 5): 128, (8, 0): 128, (8, 6): 256, (8, 9): 256, (9, 0): 256, (10, 0): 256}
"""The same in 32 bits, without TensorFloat-32."""


@final
@dataclass(frozen=True)
class Gpu:
    """What is known of a card without running it."""

    num_multiprocessors: int
    capability: tuple[int, int]

    @classmethod
    def of(cls, device: torch.device) -> Gpu | None:
        """None for what is no CUDA device."""
        if device.type != "cuda":
            return None
        found = torch.cuda.get_device_properties(device)
        return cls(found.multi_processor_count, (found.major, found.minor))

    def flops_per_s(self, dtype: torch.dtype | None) -> float | None:
        """What a large model reaches in a type (None: float32); None for a card that is not in the list."""
        in_a_cycle = (_SINGLE_FLOPS if dtype in (None, torch.float32) else _HALF_FLOPS).get(self.capability)
        return None if in_a_cycle is None else self.num_multiprocessors * _CLOCK_HZ * in_a_cycle * _SHARE_OF_PEAK


@final
@dataclass(frozen=True)
class Asking:
    """What asking the teachers for a batch takes, and how often it would be done again.

    Attributes:
        seconds_per_row: an estimate.
        passes: over the training rows, of all the training.
    """

    seconds_per_row: float
    passes: float

    def is_faster_than_reading(self, bytes_per_row: float) -> bool:
        """Whether all passes are faster if each asks anew than if the first one keeps what it is told.

        One pass counts as two: its answers serve a later run.
        """
        again = max(1.0, self.passes - 1)
        kept = bytes_per_row * (1 / _WRITE_BYTES_PER_S + again / _READ_BYTES_PER_S)
        return again * self.seconds_per_row < kept


def asking(models: Sequence[nn.Module], gpu: Gpu | None, dtype: torch.dtype | None, *, text_tokens: float,
           batch_size: int, passes: float, choices: int = 0) -> Asking | None:
    """What it takes to ask these models on that card; None where that is not known, as on a CPU.

    Args:
        models: transformers models that read ``input_ids``.
        gpu: the card.
        dtype: what they compute in; None: float32.
        text_tokens: the tokens of a row on average; of one of its choices, if it has choices.
        batch_size: the rows that are asked about at once.
        passes: over the rows.
        choices: the texts that make one row; 0: one, which is no choice.
    """
    speed = None if gpu is None else gpu.flops_per_s(dtype)
    if speed is None or not models:
        return None
    seconds, length, texts = 0.0, max(1, round(text_tokens)), max(1, choices)
    one_choice = {"input_ids": torch.ones(1, 1, length, dtype=torch.long)} if choices else None
    for model in models:
        count = count_flops(model, sequence_length=length, inputs=one_choice)
        layers = getattr(model.config, "num_hidden_layers", None)
        if count.unknown_because or layers is None:
            return None
        seconds += max(texts * length * count.per_token[""] / speed, layers * _LAYER_S / batch_size)
    return Asking(seconds, passes)
