"""The paper's adaptor: a plain function from a batch and the model's outputs to a dictionary."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.adaptors.base import Adaptor, Signals, call_model, holds_probabilities, masks_from_features
from stillhouse.errors import OutputError, unknown_name
from stillhouse.types import ALL_LOGITS, ATTENTION_SCORES, LABELS, USER_LOSSES, Key, Masks, logits_mask_name

ADAPTOR_KEYS = ["logits", "logits_mask", "losses", "inputs_mask", "labels", "hidden", "attention"]
_MASK_KEYS = {"inputs_mask": "inputs", "labels_mask": "labels", "losses_mask": "losses"}


class FunctionAdaptor(Adaptor):
    """Wraps ``function(batch, model_outputs) -> dict`` with the keys `ADAPTOR_KEYS` (all optional).

    ``logits``, ``logits_mask``, ``losses`` and ``labels`` may be a tensor or a list; ``hidden`` and ``attention`` are
    lists, indexed by the layer numbers of the configuration.

    Args:
        function: the translation.
        masks: ``masks(batch) -> dict`` with ``inputs_mask``, ``logits_mask``, ``labels_mask`` or ``losses_mask`` of
            (rows, positions), a ``logits_mask`` of (rows, 1) for logits of (B, C). Declaring masks spares the extra
            forward that gradient accumulation otherwise costs.
        version: names this translation for the disk cache; without it, teacher outputs are cached in memory only.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], Mapping[str, Any]],
        masks: Callable[[Any], Mapping[str, Any]] | None = None,
        version: str | None = None,
    ) -> None:
        self.function = function
        self._masks = masks
        self.declares_masks = masks is not None
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self.fingerprint = None if version is None else f"function/1 {name} {version}"
        self._unknown_seen: set[str] = set()
        self._looked_at_scores = False

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        return self.adapt(inputs, call_model(model, inputs, extra), keys)

    def masks(self, inputs: Any) -> Masks:
        if self._masks is None:
            return super().masks(inputs)
        return _named_masks(self._masks(inputs))

    def adapt(self, inputs: Any, outputs: Any, keys: frozenset[Key]) -> Signals:
        """Translate outputs that a model gave already."""
        results = self.function(inputs, outputs)
        if not isinstance(results, Mapping):
            raise OutputError(f"the adaptor returned {type(results).__name__}, not a dictionary")
        self._warn_unknown(results, keys)
        features = self._features(results, keys)
        if self._masks is not None:
            masks = dict(self.masks(inputs))
            if "logits" in masks:  # one mask serves all heads
                heads = [key.index for key in features if key.kind == "logits"]
                shared = {logits_mask_name(head): masks["logits"] for head in heads if isinstance(head, int)}
                masks = {**shared, **masks}
            return Signals(features, masks)
        return Signals(features, masks_from_features(features, _named_masks(results)))

    def _features(self, results: Mapping[str, Any], keys: frozenset[Key]) -> dict[Key, Tensor]:
        features: dict[Key, Tensor] = {}
        heads = _as_list(results.get("logits"))
        if ALL_LOGITS in keys:
            features.update({Key("logits", head): logits for head, logits in enumerate(heads)})
        losses = _as_list(results.get("losses"))
        if USER_LOSSES in keys and losses:
            features[USER_LOSSES] = torch.stack([loss.mean() for loss in losses]).sum()
        for head, labels in enumerate(_as_list(results.get("labels"))):
            # asked for or not: the first head's tell how many labels a user's loss is over
            features[LABELS if head == 0 else Key("labels", head)] = labels
        for key in keys:
            if key.kind == "logits" and isinstance(key.index, int) and key.index < len(heads):
                features[key] = heads[key.index]
            elif key.kind == ATTENTION_SCORES:
                features[key] = self._scores(results, Key("attention", key.index))
            elif isinstance(key.index, int) and key.kind != "logits":
                features[key] = _layer(results, key)
        return features

    def _scores(self, results: Mapping[str, Any], key: Key) -> Tensor:
        """The adaptor's attention maps, which are taken for scores; a look at the first one tells if they are not."""
        scores = _layer(results, key)
        if not self._looked_at_scores:
            self._looked_at_scores = True
            if holds_probabilities(scores):
                warnings.warn(f"the adaptor's {key} holds probabilities (its rows sum to 1), and this loss applies a "
                              "softmax to scores; return the scores, or probabilities.clamp_min(1e-30).log()",
                              stacklevel=2)
        return scores

    def _warn_unknown(self, results: Mapping[str, Any], keys: frozenset[Key]) -> None:
        known = {*ADAPTOR_KEYS, *_MASK_KEYS, *(key.kind for key in keys)}  # users name features of their own
        for name in set(results) - known - self._unknown_seen:
            self._unknown_seen.add(name)
            warnings.warn(f"{unknown_name('adaptor key', name, ADAPTOR_KEYS)}; it is ignored", stacklevel=2)


def _as_list(value: Any) -> list[Tensor]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _layer(results: Mapping[str, Any], key: Key) -> Tensor:
    layers = results.get(key.kind)
    if layers is None:
        raise OutputError(f"the configuration matches {key}, but the adaptor returned no {key.kind!r}: "
                          f"it gave {', '.join(map(repr, results)) or 'nothing'}")
    index = key.index
    assert isinstance(index, int)
    if not -len(layers) <= index < len(layers):
        hint = f"entries, 0 to {len(layers) - 1}" if layers else (
            "entries; models give attention maps only with attn_implementation='eager', and output_attentions")
        raise OutputError(f"the configuration matches {key}, but the adaptor's {key.kind!r} list has {len(layers)} "
                          f"{hint}")
    tensor = layers[index]
    if not isinstance(tensor, Tensor):
        raise OutputError(f"the configuration matches {key}, but that entry of the adaptor's {key.kind!r} list is "
                          f"{tensor!r}")
    return tensor


def _named_masks(results: Mapping[str, Any]) -> dict[str, Tensor]:
    masks = {name: results[key] for key, name in _MASK_KEYS.items() if results.get(key) is not None}
    given = results.get("logits_mask")
    if isinstance(given, Tensor):
        masks.update({logits_mask_name(head): given for head in range(len(_as_list(results.get("logits"))) or 1)})
    elif given is not None:
        heads = list(given) * (max(1, len(_as_list(results.get("logits")))) if len(given) == 1 else 1)
        masks.update({logits_mask_name(head): mask for head, mask in enumerate(heads)})
    return masks
