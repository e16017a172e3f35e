"""The adaptor for encoders of Hugging Face that give a text one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.adaptors.base import Adaptor, Signals
from stillhouse.adaptors.hugging_face import LAST_HIDDEN, HuggingFaceAdaptor
from stillhouse.errors import PlanError
from stillhouse.types import Features, Key, Masks

EMBEDDING = Key("embedding")
"""One vector a row, (B, H)."""

Pooling = Literal["mean", "cls", "max"]


class SentenceEmbeddingAdaptor(Adaptor):
    """Reads ``Key("embedding")``, one vector a text, (B, H) in float32 or more, of a model without a head.

    It is pooled from the model's last hidden state, over the tokens that ``attention_mask`` keeps; a row without any
    has a vector of zeros. Hidden states and attention maps are those of `HuggingFaceAdaptor`, and so are the masks:
    ``inputs`` of (B, L), and ``logits`` of (B, 1), which keeps the rows that have any token.

    Args:
        pooling: ``"mean"`` of the tokens, ``"cls"`` for the first of them, ``"max"`` in each feature.
        normalize: bring the vectors to length 1.
    """

    declares_masks = True

    def __init__(self, pooling: Pooling = "mean", normalize: bool = True) -> None:
        self._encoder = HuggingFaceAdaptor("rows")
        self.pooling, self.normalize = pooling, normalize
        self.fingerprint = f"sentence-embedding/1 pooling={pooling} normalize={normalize}"

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        asked = (keys - {EMBEDDING}) | {LAST_HIDDEN} if EMBEDDING in keys else keys
        found, masks = self._encoder.run(model, inputs, asked, extra)
        features: Features = {key: value for key, value in found.items() if key in keys}
        if EMBEDDING in keys:
            features = {**features, EMBEDDING: self._embedding(found[LAST_HIDDEN], masks["inputs"])}
        return Signals(features, masks)

    def _embedding(self, states_BLH: Tensor, mask_BL: Tensor) -> Tensor:
        pooled_BH = pooled(states_BLH, mask_BL, self.pooling)
        return F.normalize(pooled_BH, dim=-1) if self.normalize else pooled_BH

    def masks(self, inputs: Any) -> Masks:
        return self._encoder.masks(inputs)

    def check(self, model: nn.Module, keys: frozenset[Key], *, is_trained: bool = False) -> None:
        logits = sorted(str(key) for key in keys if key.kind == "logits")
        if logits:
            raise PlanError(f"{', '.join(logits)}: a sentence embedder has a vector for a text and no logits; use the "
                            "losses between embeddings")
        self._encoder.check(model, keys, is_trained=is_trained)

    def width(self, model: nn.Module, key: Key) -> int | None:
        return self._encoder.width(model, LAST_HIDDEN if key == EMBEDDING else key)


def pooled(states_BLH: Tensor, mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """One vector a row, (B, H), of the positions that the mask keeps, whatever stands elsewhere; zeros for none.

    Halves are brought to float32.
    """
    kept_BL1 = mask_BL.ne(0).unsqueeze(-1)
    states_BLH = states_BLH.float() if states_BLH.dtype in (torch.float16, torch.bfloat16) else states_BLH
    if pooling == "mean":
        return states_BLH.masked_fill(~kept_BL1, 0.0).sum(dim=1) / kept_BL1.sum(dim=1).clamp_min(1)
    if pooling == "max":
        largest_BH = states_BLH.masked_fill(~kept_BL1, -torch.inf).amax(dim=1)
    else:
        first_B = mask_BL.ne(0).int().argmax(dim=1)
        largest_BH = states_BLH[torch.arange(len(first_B), device=first_B.device), first_B]
    return largest_BH.masked_fill(~kept_BL1.any(dim=1), 0.0)
