"""What an adaptor is: the translation of one model's inputs and outputs into named tensors and masks."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from stillhouse.types import LABELS, USER_LOSSES, Features, Key, Masks, logits_mask_name


class Signals(NamedTuple):
    """What an adaptor made of one forward: the tensors, and the masks that say which positions count."""

    features: Features
    masks: Masks


class Adaptor(abc.ABC):
    """Translates a model's inputs and outputs. Abstract.

    Contract:

    * ``run`` does one forward and returns at least the keys asked for; it switches on exactly those optional outputs.
    * ``masks`` gives the masks of inputs before any forward if ``declares_masks``; then they are what ``run`` returns.
    * ``fingerprint`` identifies the translation across processes, or is None: then a cache keeps to memory.
    * ``check`` raises `PlanError` for keys this adaptor cannot give of this model; ``width`` is what two models'
      tensors must have in common (features, classes, attention heads) where it is known without a forward.
    """

    declares_masks: bool = False
    fingerprint: str | None = None

    @abc.abstractmethod
    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        """Call the model on ``inputs`` (a tuple or a mapping) with ``extra`` keyword arguments, and translate."""

    def masks(self, inputs: Any) -> Masks:
        """The masks of one micro-batch, from its inputs alone (only if ``declares_masks``)."""
        raise NotImplementedError(f"{type(self).__name__} does not declare its masks")

    def check(  # noqa: B027 - optional by design
        self, model: nn.Module, keys: frozenset[Key], *, is_trained: bool = False
    ) -> None:
        """Raise `PlanError` for a key that can never be given; ``is_trained`` tells a student from a teacher."""

    def width(self, model: nn.Module, key: Key) -> int | None:
        """Features of a hidden state, classes of logits, heads of an attention map; None if only a forward can tell."""
        return None


class AdaptorAround(Adaptor, abc.ABC):
    """An adaptor that changes what another is asked for or gives. Masks and fingerprint are the other's. Abstract."""

    def __init__(self, inner: Adaptor) -> None:
        self.inner = inner
        self.declares_masks, self.fingerprint = inner.declares_masks, inner.fingerprint

    @final
    def masks(self, inputs: Any) -> Masks:
        return self.inner.masks(inputs)


def call_model(model: nn.Module, inputs: Any, extra: Mapping[str, Any]) -> Any:
    """``model(**inputs, **extra)`` for a mapping, ``model(*inputs, **extra)`` for a tuple or list."""
    if isinstance(inputs, Mapping):
        return model(**inputs, **extra)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs, **extra)
    return model(inputs, **extra)


def holds_probabilities(maps: Tensor) -> bool:
    """Whether attention maps (..., L, L) are probability distributions, for the most part: padding may have none."""
    maps = maps.detach().float()
    sums_to_one = (maps.sum(dim=-1) - 1).abs() < 1e-2
    return bool((maps >= 0).all() and sums_to_one.float().mean() > 0.5)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """The logarithm, at least in float32; -87 or so where a probability is 0."""
    probabilities = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()


def labels_mask(labels: Tensor) -> Tensor:
    """1 where a label counts: (B, L), or (B, 1) for labels of (B,). Negative whole numbers and NaN do not."""
    kept = ~labels.isnan() if labels.is_floating_point() else labels.ge(0)
    return kept.unsqueeze(1) if kept.dim() == 1 else kept


def masks_from_features(features: Features, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every mask that losses may ask for; what was not ``given`` keeps all positions of the tensors at hand."""
    masks: dict[str, Tensor] = {}
    for key, tensor in features.items():
        if key.kind == "logits" and isinstance(key.index, int):
            name = logits_mask_name(key.index)
            length = tensor.shape[1] if tensor.dim() > 2 else 1
            mask = given.get(name)
            if mask is None or (tensor.dim() < 3 and mask.shape[1:] != (1,)):  # a mask of tokens says nothing of rows
                mask = _ones(tensor, length)
            masks[name] = mask
    if "inputs" in given:
        masks["inputs"] = given["inputs"]
    elif (positions := _positions(features)) is not None:
        masks["inputs"] = positions
    if LABELS in features:
        masks["labels"] = given.get("labels", labels_mask(features[LABELS]))
    if USER_LOSSES in features:
        rows = masks.get("labels", given.get("losses"))
        masks["losses"] = next((_ones(mask, 1) for mask in masks.values()), _ones(features[USER_LOSSES].reshape(1), 1))
        masks["losses"] = masks["losses"] if rows is None else rows
    return masks


def _positions(features: Features) -> Tensor | None:
    """An all-ones mask (B, L), as long as the longest hidden state or attention map at hand; None without any."""
    lengths: dict[int, Tensor] = {}
    for key, tensor in features.items():
        if key.kind.startswith("attention"):
            lengths[tensor.shape[-1]] = tensor
        elif key.kind not in ("logits", "labels", "losses") and tensor.dim() > 1:
            lengths[tensor.shape[1] if tensor.dim() > 2 else 1] = tensor
    return _ones(lengths[max(lengths)], max(lengths)) if lengths else None


def _ones(like: Tensor, length: int) -> Tensor:
    return torch.ones(like.shape[0], length, dtype=torch.bool, device=like.device)
