"""Similarities between positions in place of the hidden states that they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.adaptors.base import AdaptorAround, Signals
from stillhouse.types import GRAM, Features, Key


def gram_key(layers: Sequence[Key]) -> Key:
    """The key of H_a H_b^T / width, (B, L, L), for two hidden states a and b: what `stillhouse.losses.NST` compares.

    It is much smaller than the states where rows are shorter than these are wide.
    """
    first, second = layers
    return Key(first.kind, (int(first.index or 0), int(second.index or 0)), GRAM)  # type: ignore[arg-type]


class GramOutputs(AdaptorAround):
    """Another adaptor that can be asked for `gram_key` too. Everything else is the inner adaptor's."""

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        asked = _asked(keys)
        features, masks = self.inner.run(model, inputs, asked, extra)
        grams = {key: _gram(key, features) for key in keys if key.form == GRAM}
        others = {key: value for key, value in features.items() if key not in asked - keys}
        return Signals({**others, **grams}, masks)

    def check(self, model: nn.Module, keys: frozenset[Key], *, is_trained: bool = False) -> None:
        self.inner.check(model, _asked(keys), is_trained=is_trained)

    def width(self, model: nn.Module, key: Key) -> int | None:
        return None if key.form == GRAM else self.inner.width(model, key)


def _asked(keys: frozenset[Key]) -> frozenset[Key]:
    """The keys with hidden states in place of what is made of them."""
    return frozenset(part for key in keys for part in (_layers(key) if key.form == GRAM else (key,)))


def _layers(key: Key) -> tuple[Key, ...]:
    assert isinstance(key.index, tuple)
    return tuple(Key(key.kind, layer) for layer in key.index)


def _gram(key: Key, features: Features) -> Tensor:
    first_BLH, second_BLH = (features[layer] for layer in _layers(key))
    if first_BLH.dtype in (torch.float16, torch.bfloat16):
        first_BLH, second_BLH = first_BLH.float(), second_BLH.float()
    with torch.autocast(first_BLH.device.type, enabled=False):
        return first_BLH @ second_BLH.transpose(1, 2) / first_BLH.shape[-1]
