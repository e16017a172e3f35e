"""Small tools that scripts take from the original's inner workings, under their old import path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.adaptors.base import call_model
from stillhouse.batches import to_device
from stillhouse.losses.logits import shifted
from stillhouse.terms import CustomMatch

__all__ = [
    "CustomMatch", "auto_forward", "move_to_device", "post_adaptor", "probability_shift_", "select_logits_with_mask",
]

_LISTS = ("logits", "logits_mask", "losses", "labels")


def move_to_device(batch: Any, device: torch.device | str) -> Any:
    """Every tensor inside tuples, lists and mappings on the device; lists become tuples, mappings dictionaries."""
    return to_device(batch, torch.device(device))


def auto_forward(model: Any, batch: Any, args: Mapping[str, Any]) -> Any:
    """The outputs of a model, or of each in a list or dictionary of models, for one batch."""
    if isinstance(model, Mapping):
        return {name: call_model(one, batch, args) for name, one in model.items()}
    if isinstance(model, (list, tuple)):
        return [call_model(one, batch, args) for one in model]
    assert isinstance(model, nn.Module)
    return call_model(model, batch, args)


def post_adaptor(results: dict[str, Any]) -> dict[str, Any]:
    """The same dictionary, in which logits, their masks, losses and labels are lists."""
    for name in _LISTS:
        if name in results and not isinstance(results[name], (list, tuple)):
            results[name] = [results[name]]
    return results


def select_logits_with_mask(logits_list: Sequence[Tensor], masks_list: Sequence[Tensor]) -> list[Tensor]:
    """Logits of (rows, positions, classes) as (n, classes), n positions that the mask keeps; others as they are.

    One mask serves all of them, or each has its own.
    """
    masks = list(masks_list) * (len(logits_list) if len(masks_list) == 1 else 1)
    return [logits[mask.ne(0)] if logits.dim() == 3 else logits
            for logits, mask in zip(logits_list, masks, strict=True)]


def probability_shift_(tensor: Tensor, labels: Tensor) -> Tensor:
    """In place: each label's logit changes places with the largest one; negative labels leave theirs alone.

    ``tensor`` is (rows, classes) or (rows, positions, classes), ``labels`` is it without the classes.
    """
    return tensor.copy_(shifted(tensor, labels, torch.ones_like(labels, dtype=torch.bool)))
