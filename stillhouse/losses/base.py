"""What a loss is: a sum over a named unit, with declared needs.

Shape suffixes: B rows, L positions, C classes, H features.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stillhouse.errors import OutputError
from stillhouse.needs import Needs
from stillhouse.types import Features, Key, Masks, Over

SumOverRanks = Callable[[Tensor], Tensor]
Width = Callable[[Key], "int | None"]
"""The size of a tensor's last dimension if it is known before any data is seen, else None."""


class Loss(nn.Module, abc.ABC):
    """One quantity to minimise. Abstract: subclass it, or one of the families beside it.

    Contract:

    * ``forward`` returns the *sum* over the units named by ``over``, as a scalar with a graph; what a mask leaves
      out adds exactly nothing, and an empty mask gives 0. One place, the objective, divides by the count.
    * ``overs`` are all denominators that ``over`` may turn out to be. Where only the tensors tell (a value per row, or
      per position), the first ``forward`` decides which; so all of them are counted.
    * ``scope`` is "batch" if a row's share depends on the rows beside it. Then it matters how rows are grouped into
      micro-batches, which is said once when gradients are accumulated.
    * Constants (width, heads, classes) are divided inside the sum, so that a unit's share does not depend on them.
    * ``needs`` says which tensors are read from each side; nothing else may be read.
    * Half-precision values are brought to float32, float64 stays: see `full_precision`.
    * Parameters (projections) are ordinary submodules: they are trained, clipped and saved with the student.
    * A loss that learns from what it saw does so in ``after_step``, into its buffers, and never in ``forward``.
    """

    over: Over
    needs: Needs
    scope: Literal["rows", "batch"] = "rows"
    paper: ClassVar[str | None] = None

    @property
    def overs(self) -> tuple[Over, ...]:
        """Every denominator that ``over`` may be."""
        return (self.over,)

    @abc.abstractmethod
    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        """The sum over this loss's units, a scalar."""

    def check(self, student_width: Width, teacher_width: Width) -> None:
        """Raise `PlanError` if the widths known before training cannot fit together."""

    def after_step(self, sum_over_ranks: SumOverRanks) -> None:
        """Called after each optimizer step; what it is given adds a tensor up over all ranks."""


def full_precision(tensor: Tensor) -> torch.autocast:
    """Autocast switched off on the tensor's device: log-softmax or bmm of halves is not accurate enough for a loss."""
    return torch.autocast(tensor.device.type, enabled=False)


def upcast(tensor: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def as_tokens(tensor: Tensor) -> Tensor:
    """(B, C) as (B, 1, C): a value per row is a sequence of length one; (B, L, C) as it is."""
    return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor


def blank(values_BLX: Tensor, mask_BL: Tensor) -> Tensor:
    """Zeros where the mask is 0, whatever stood there (NaN included); no gradient reaches those places."""
    if _keeps_all(mask_BL):
        return values_BLX
    return values_BLX.masked_fill(mask_BL.eq(0).unsqueeze(-1), 0.0)


def _keeps_all(mask_BL: Tensor) -> bool:
    """Whether rows are of one length, so that nothing needs copying; not looked at on a GPU, which would wait."""
    return mask_BL.device.type == "cpu" and bool(mask_BL.all())


def require_same_shape(what: str, student: Tensor, teacher: Tensor, remedy: str) -> None:
    """Raise `OutputError` unless both sides have one shape."""
    if student.shape != teacher.shape:
        shapes = f"the student gives {tuple(student.shape)}, the teacher {tuple(teacher.shape)}"
        raise OutputError(f"{what}: {shapes}; {remedy}")


def require_mask(what: str, values_BLX: Tensor, mask_BL: Tensor) -> None:
    """Raise `OutputError` unless the mask has one entry for each position."""
    if values_BLX.shape[:2] != mask_BL.shape:
        raise OutputError(
            f"{what} has shape {tuple(values_BLX.shape)} but its mask {tuple(mask_BL.shape)}; "
            "a mask is (rows, positions), and (rows, 1) for one value a row"
        )
