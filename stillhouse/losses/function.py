"""A user's plain functions, and the losses that an adaptor computed itself, as losses of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stillhouse.losses.base import Loss, blank, full_precision, upcast
from stillhouse.losses.logits import KDLoss
from stillhouse.losses.match import mask_over
from stillhouse.losses.temperature import Strategy, temperatures
from stillhouse.needs import Needs
from stillhouse.types import USER_LOSSES, Features, Key, Masks, Over, Unit


class FunctionLoss(Loss):
    """A plain function ``f(student, teacher, mask=None) -> mean`` between layers.

    It receives one tensor a side, or a list where several layers are given, as the paper's match losses do. Its mean is
    multiplied by the number of units, so that it stays exact under accumulation when it is a mean over ``unit``.

    Args:
        function: returns the mean over kept units, a scalar.
        student: keys of the student's tensors.
        teacher: keys of the teacher's tensors.
        projection: applied to each of the student's tensors.
        unit: what the function averages over.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        student: Sequence[Key],
        teacher: Sequence[Key],
        projection: nn.Module | None = None,
        unit: Unit = Unit.TOKEN,
    ) -> None:
        super().__init__()
        self.function = function
        self.student_keys, self.teacher_keys = tuple(student), tuple(teacher)
        self.projection = nn.Identity() if projection is None else projection
        self.needs = Needs.of(self.student_keys, self.teacher_keys)
        self.unit = unit
        self.over = Over(unit, "inputs")

    @property
    def overs(self) -> tuple[Over, ...]:
        return (Over(self.unit, "inputs"), Over(Unit.ROW, "inputs"))

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        given = [student[key] for key in self.student_keys]
        mask_BL = mask_over(self, self.unit, given, masks)
        projected = [self._projected(tensor, mask_BL) for tensor in given]
        count = self.over.unit.count(mask_BL)
        if count == 0:
            return torch.stack([_zero(student_BLH) for student_BLH in projected]).sum()
        with full_precision(mask_BL):
            mean: Tensor = self.function(
                _one_or_list([upcast(s) for s in projected]),
                _one_or_list([upcast(teacher[key]) for key in self.teacher_keys]),
                mask=mask_BL,
            )
            return mean * count.to(mean.dtype)

    def _projected(self, tensor: Tensor, mask_BL: Tensor) -> Tensor:
        """What stands in padding must not reach the projection's own gradient."""
        if isinstance(self.projection, nn.Identity):
            return tensor
        projected: Tensor = self.projection(blank(tensor, mask_BL) if tensor.dim() == 3 else tensor)
        return projected


class FunctionLogitsLoss(KDLoss):
    """A plain function ``f(student, teacher, temperature) -> mean`` between logits.

    The function sees the kept positions alone, as (N, C). With a ``strategy`` the temperature is (N,).
    """

    def __init__(self, function: Callable[..., Tensor], temperature: float = 1.0, head: int = 0, *,
                 strategy: Strategy | None = None, probability_shift: bool = False) -> None:
        super().__init__(temperature, head, strategy=strategy, probability_shift=probability_shift)
        self.function = function

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        student_BLC, teacher_BLC, kept_BL = self.predictions(student, teacher, masks)
        student_NC, teacher_NC = student_BLC[kept_BL], teacher_BLC[kept_BL]
        if len(student_NC) == 0:
            return student_NC.sum()
        with full_precision(student_NC):
            temperature: float | Tensor = self.temperature
            if self.strategy is not None:
                temperature = temperatures(self.strategy, student_NC, teacher_NC, self.temperature)
            mean: Tensor = self.function(student_NC, teacher_NC, temperature)
            return mean * len(student_NC)


class UserLosses(Loss):
    """The sum of the losses that the user's adaptor returned, each a mean made by the user's own model.

    Each mean is taken to be over the labels the adaptor names (those not negative), or over rows if it names none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.needs = Needs.of([USER_LOSSES])
        self.over = Over(Unit.TOKEN, "losses")

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        mean = student[USER_LOSSES]
        count = self.over.unit.count(masks[self.over.mask])
        if count == 0:  # a mean over nothing is NaN in value and gradient: hang the zero on something else
            others = [tensor for key, tensor in student.items() if key != USER_LOSSES and tensor.requires_grad]
            return _zero(others[0] if others else mean)
        return mean * count.to(mean.dtype)


def _zero(tensor: Tensor) -> Tensor:
    """0 with the tensor's graph and no gradient, whatever the tensor holds (NaN times 0 would stay NaN)."""
    return upcast(tensor).reshape(-1)[:0].sum()


def _one_or_list(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    """A single tensor as it is, several as a list: how the paper's functions take them."""
    return tensors[0] if len(tensors) == 1 else tensors
