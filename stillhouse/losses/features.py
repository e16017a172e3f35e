"""The family of losses between layers of the two models, and where their projection is applied."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from torch import Tensor, nn

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses.base import Loss, Width, as_tokens, blank, full_precision, require_mask, upcast
from stillhouse.needs import Needs
from stillhouse.projections import Projection
from stillhouse.types import Features, Key, Masks, Over, Unit


class FeatureLoss(Loss, abc.ABC):
    """A loss between one or several layers of the student and as many of the teacher. Abstract: give ``total``.

    Args:
        student: keys of the student's tensors, each (B, L, H_student), or (B, H_student).
        teacher: keys of the teacher's tensors, each (B, L, H_teacher).
        projection: maps the student's features to the teacher's width; trained with the student.
    """

    unit: Unit = Unit.TOKEN
    num_layers: int = 1  # how many layers a side
    same_width: bool = True  # whether student (projected) and teacher must be equally wide

    def __init__(self, student: Sequence[Key], teacher: Sequence[Key], projection: nn.Module | None = None) -> None:
        super().__init__()
        self.student_keys, self.teacher_keys = tuple(student), tuple(teacher)
        for side, keys in (("student", self.student_keys), ("teacher", self.teacher_keys)):
            if len(keys) != self.num_layers:
                name = type(self).__name__
                raise PlanError(f"{name} takes {self.num_layers} layer(s) of the {side}, not {len(keys)}")
        self.projection = nn.Identity() if projection is None else projection
        self.needs = Needs.of(self.student_keys, self.teacher_keys)
        self.over = Over(self.unit, "inputs")

    @classmethod
    @abc.abstractmethod
    def total(cls, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        """The sum over ``cls.unit``; positions that the mask leaves out are 0 on both sides."""

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        mask_BL = masks[self.over.mask]
        projected = [self._projected(key, as_tokens(student[key]), mask_BL) for key in self.student_keys]
        wanted = [as_tokens(teacher[key]) for key in self.teacher_keys]
        for name, key_s, key_t, s, t in zip(
            self._names(), self.student_keys, self.teacher_keys, projected, wanted, strict=True
        ):
            self._check_shapes(name, key_s, key_t, s, t)
        with full_precision(mask_BL):
            return self.masked_total(projected, wanted, mask_BL)

    @classmethod
    def masked_total(cls, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        """``total`` of full-precision features, blanked where the mask leaves them out."""
        return cls.total(
            [blank(upcast(s), mask_BL) for s in student_BLH], [blank(upcast(t), mask_BL) for t in teacher_BLH], mask_BL
        )

    def check(self, student_width: Width, teacher_width: Width) -> None:
        for key_s, key_t in zip(self.student_keys, self.teacher_keys, strict=True):
            width, target = student_width(key_s), teacher_width(key_t)
            if isinstance(self.projection, Projection):
                if width is not None and width != self.projection.dim_student:
                    raise PlanError(
                        f"the projection for {key_s} expects a student width of {self.projection.dim_student}, "
                        f"but the student is {width} wide"
                    )
                width = self.projection.dim_teacher
            elif not isinstance(self.projection, nn.Identity):
                continue
            if self.same_width and width is not None and target is not None and width != target:
                raise PlanError(
                    f"{type(self).__name__} between student {key_s} ({width} wide) and teacher {key_t} ({target} wide) "
                    f"needs a projection: in a configuration, proj: [linear, {width}, {target}]"
                )

    def _projected(self, key: Key, student_BLH: Tensor, mask_BL: Tensor) -> Tensor:
        """Runs under autocast. What stands in padding must not reach the projection's own gradient either."""
        require_mask(str(key), student_BLH, mask_BL)
        if isinstance(self.projection, nn.Identity):
            return student_BLH
        projected_BLH: Tensor = self.projection(blank(student_BLH, mask_BL))
        return projected_BLH

    def _names(self) -> list[str]:
        pairs = zip(self.student_keys, self.teacher_keys, strict=True)
        return [f"{type(self).__name__} {s} with {t}" for s, t in pairs]

    def _check_shapes(self, name: str, key_s: Key, key_t: Key, student: Tensor, teacher: Tensor) -> None:
        if student.shape[:2] != teacher.shape[:2]:
            raise OutputError(
                f"{name}: {tuple(student.shape)} and {tuple(teacher.shape)} do not cover the same positions; "
                "layers can only be matched where both models read the same tokens"
            )
        if self.same_width and student.shape[-1] != teacher.shape[-1]:
            raise OutputError(
                f"{name}: the student is {student.shape[-1]} wide, the teacher {teacher.shape[-1]}; "
                f"add a projection, proj: [linear, {student.shape[-1]}, {teacher.shape[-1]}]"
            )
