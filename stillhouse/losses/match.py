"""What all losses between layers of two models have in common, whatever kind of tensor a layer gives."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from stillhouse.errors import PlanError
from stillhouse.losses.base import Loss, as_tokens
from stillhouse.needs import Needs
from stillhouse.types import Features, Key, Masks, Over, Unit


class MatchLoss(Loss, abc.ABC):
    """A loss between layers of the student and layers of the teacher. Abstract: see the two families,
    `stillhouse.losses.FeatureLoss` and `stillhouse.losses.AttentionLoss`.

    Args:
        student: keys of the student's tensors.
        teacher: keys of the teacher's tensors, as many.
        projection: maps the student's tensors to the teacher's width; trained with the student.
    """

    unit: ClassVar[Unit] = Unit.TOKEN
    num_layers: ClassVar[int | None] = 1  # how many layers a side; None: any number, which may differ
    reads: ClassVar[str] = "hidden"  # what kind of tensor, "hidden" or "attention"
    same_width: ClassVar[bool] = True  # whether student (projected) and teacher must be equally wide
    first_only: ClassVar[bool] = False  # whether only the first position is read, of each row that keeps any

    def __init__(self, student: Sequence[Key], teacher: Sequence[Key], projection: nn.Module | None = None) -> None:
        super().__init__()
        self.student_keys, self.teacher_keys = tuple(student), tuple(teacher)
        for side, keys in (("student", self.student_keys), ("teacher", self.teacher_keys)):
            if not keys or self.num_layers not in (None, len(keys)):
                wanted = "one layer or more" if self.num_layers is None else f"{self.num_layers} layer(s)"
                raise PlanError(f"{type(self).__name__} takes {wanted} of the {side}, not {len(keys)}")
        self.projection = nn.Identity() if projection is None else projection
        self.needs = Needs.of(self.student_keys, self.teacher_keys)
        self.over = Over(self.unit, "inputs")

    @property
    def overs(self) -> tuple[Over, ...]:
        return (Over(self.unit, "inputs"), Over(Unit.ROW, "inputs"))

    @abc.abstractmethod
    def masked_total(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        """The sum over ``unit``, of tensors in which anything may stand where the mask is 0."""


def mask_over(loss: Loss, unit: Unit, tensors: Sequence[Tensor], masks: Masks) -> Tensor:
    """The mask of the given layers, and ``loss.over`` set to what it is a sum over.

    Layers of (B, H), such as a pooler's, have one value a row, so there a row is the unit.
    """
    mask_BL = masks["inputs"]
    if all(tensor.dim() == 2 for tensor in tensors):
        loss.over = Over(Unit.ROW, "inputs")
        return mask_BL.ne(0).any(dim=1, keepdim=True)
    loss.over = Over(unit, "inputs")
    return mask_BL


def layers_of(features: Features, keys: Sequence[Key]) -> list[Tensor]:
    """The tensors behind the keys; a value per row as a sequence of length one."""
    return [as_tokens(features[key]) for key in keys]
