"""In which form a teacher's values are kept: as they are, in another type, or in one byte each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

INT8_STEPS = 127
"""The values of a vector are whole multiples of its largest magnitude / 127; the error is at most half of one."""


def kept_form(tensor: Tensor, dtype: torch.dtype | None, *, has_features: bool) -> list[Tensor]:
    """What is kept of a tensor: itself, itself in ``dtype``, or with ``torch.int8`` its bytes and their scales.

    Bytes are for values with features along the last axis (``has_features``): q of (..., H) and s of (..., 1), float32,
    for q * s. Others, such as logits and attention maps, are kept as float16 then. What is no floating-point tensor is
    kept as it is.
    """
    tensor = tensor.detach()
    if dtype is None or not tensor.is_floating_point():
        return [tensor.cpu()]
    if dtype is not torch.int8:
        return [tensor.to(dtype).cpu()]
    if not has_features:
        return [tensor.half().cpu()]
    scale = tensor.abs().amax(dim=-1, keepdim=True).float() / INT8_STEPS
    whole = (tensor.float() / scale.where(scale > 0, 1)).round().clamp(-INT8_STEPS, INT8_STEPS)
    return [whole.to(torch.int8).cpu(), scale.cpu()]


def restored(parts: Sequence[Tensor]) -> Tensor:
    """The tensor of which ``parts`` were kept."""
    return parts[0] if len(parts) == 1 else parts[0].float() * parts[1]
