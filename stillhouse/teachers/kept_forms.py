"""In which form a teacher's values are kept: as they are, in another type, or in one byte each."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.types import GRAM, Key

INT8_STEPS = 127
"""The values of a vector are whole multiples of its largest magnitude / 127; the error is at most half of one."""


BYTES_AND_SCALES = (torch.int8, torch.float32)


def kept_types(key: Key, dtype: torch.dtype, *, has_features: bool) -> tuple[torch.dtype, ...]:
    """The types in which a floating-point tensor is kept where ``dtype`` is asked for: one, or those of two parts.

    ``torch.int8`` stands for bytes and their scales, of values with features along the last axis (``has_features``);
    others, such as logits and attention maps, are float16 then. Similarities grow with the square of what they are
    made of, and take little room: float32.
    """
    if key.form == GRAM:
        return (torch.float32,)
    if dtype is not torch.int8:
        return (dtype,)
    return BYTES_AND_SCALES if has_features else (torch.float16,)


def kept_form(key: Key, tensor: Tensor, dtype: torch.dtype | None, *, has_features: bool) -> list[Tensor]:
    """What is kept of a tensor: itself, itself in another type, or q of (..., H) and s of (..., 1) for q * s.

    Itself without a ``dtype``, and where it is no floating-point tensor.
    """
    tensor = tensor.detach()
    if dtype is None or not tensor.is_floating_point():
        return [tensor.cpu()]
    types = kept_types(key, dtype, has_features=has_features)
    if types != BYTES_AND_SCALES:
        return [tensor.to(types[0]).cpu()]
    scale = tensor.abs().amax(dim=-1, keepdim=True).float() / INT8_STEPS
    whole = (tensor.float() / scale.where(scale > 0, 1)).round().clamp(-INT8_STEPS, INT8_STEPS)
    return [whole.to(torch.int8).cpu(), scale.cpu()]


def restored(whole: Tensor, scale: Tensor) -> Tensor:
    """The tensor whose bytes and scales were kept."""
    return whole.float() * scale
