"""A user's plain functions, and the losses that an adaptor computed itself, as losses of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.losses.base import Loss, Width, as_tokens, full_precision, require_mask, upcast
from stillhouse.losses.logits import check_classes
from stillhouse.needs import Needs
from stillhouse.types import USER_LOSSES, Features, Key, Masks, Over, Unit, logits_mask_name


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
        self.over = Over(unit, "inputs")

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        mask_BL = masks[self.over.mask]
        projected: list[Tensor] = [self.projection(student[key]) for key in self.student_keys]
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


class FunctionLogitsLoss(Loss):
    """A plain function ``f(student, teacher, temperature) -> mean`` between logits.

    The function sees the kept positions alone, as (N, C).
    """

    def __init__(self, function: Callable[..., Tensor], temperature: Any = 1.0, head: int = 0) -> None:
        super().__init__()
        self.function, self.temperature, self.head = function, temperature, head
        self.key = Key("logits", head)
        self.needs = Needs.of([self.key], [self.key])
        self.over = Over(Unit.TOKEN, logits_mask_name(head))

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        kept_BL = masks[self.over.mask].ne(0)
        student_BLC, teacher_BLC = as_tokens(student[self.key]), as_tokens(teacher[self.key])
        require_mask(f"the student's {self.key}", student_BLC, kept_BL)
        require_mask(f"the teacher's {self.key}", teacher_BLC, kept_BL)
        student_NC, teacher_NC = upcast(student_BLC)[kept_BL], upcast(teacher_BLC)[kept_BL]
        if len(student_NC) == 0:
            return student_NC.sum()
        with full_precision(student_NC):
            mean: Tensor = self.function(student_NC, teacher_NC, self.temperature)
            return mean * len(student_NC)

    def check(self, student_width: Width, teacher_width: Width) -> None:
        check_classes(self.key, student_width, teacher_width)


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
    return tensors[0] if len(tensors) == 1 else tensors
