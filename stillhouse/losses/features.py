"""The family of losses between hidden states of the two models, and where their projection is applied."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses.base import Width, blank, full_precision, require_mask, upcast
from stillhouse.losses.match import MatchLoss, layers_of, mask_over
from stillhouse.projections import Projection
from stillhouse.types import Features, Key, Masks


class FeatureLoss(MatchLoss, abc.ABC):
    """A loss between hidden states, each (B, L, H), or (B, H) for one vector a row. Abstract: give ``total``."""

    @abc.abstractmethod
    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        """The sum over ``unit``; positions that the mask leaves out are 0 on both sides."""

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        mask_BL = mask_over(self, self.unit, [student[key] for key in self.student_keys], masks)
        given = zip(self.student_keys, layers_of(student, self.student_keys), strict=True)
        read_BL = self._read(mask_BL)
        projected = [self._projected(i, key, state_BLH, read_BL) for i, (key, state_BLH) in enumerate(given)]
        wanted = layers_of(teacher, self.teacher_keys)
        for (s, key_s), (t, key_t) in self._pairs():
            self._check_shapes(f"{type(self).__name__} {key_s} with {key_t}", projected[s], wanted[t])
        with full_precision(mask_BL):
            return self.masked_total(projected, wanted, mask_BL)

    def masked_total(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        read_BL = self._read(mask_BL)
        return self.total(_blanked(student, read_BL), _blanked(teacher, read_BL), read_BL)

    def _read(self, mask_BL: Tensor) -> Tensor:
        """Which positions are read: those that the mask keeps, or the first of each row that keeps any."""
        if not self.first_only:
            return mask_BL
        read_BL = torch.zeros_like(mask_BL, dtype=torch.bool)
        read_BL[:, 0] = mask_BL.ne(0).any(dim=1)
        return read_BL

    def check(self, student_width: Width, teacher_width: Width) -> None:
        for (s, key_s), (_, key_t) in self._pairs():
            width, target, projection = student_width(key_s), teacher_width(key_t), self._projection_of(s)
            if isinstance(projection, Projection):
                if width is not None and width != projection.dim_student:
                    raise PlanError(
                        f"the projection for {key_s} expects a student width of {projection.dim_student}, "
                        f"but the student is {width} wide"
                    )
                width = projection.dim_teacher
            elif not isinstance(projection, nn.Identity):
                continue
            if self.same_width and width is not None and target is not None and width != target:
                raise PlanError(
                    f"{type(self).__name__} between student {key_s} ({width} wide) and teacher {key_t} ({target} wide) "
                    f"needs a projection: in a configuration, proj: [linear, {width}, {target}]"
                )

    def _pairs(self) -> Iterator[tuple[tuple[int, Key], tuple[int, Key]]]:
        """The (number, key) of each student layer with that of the teacher layers it is compared with.

        Where any number of layers is taken, the first of each side, their embeddings, are a pair of their own.
        """
        teacher = list(enumerate(self.teacher_keys))
        for i, key in enumerate(self.student_keys):
            for other in teacher[1:] if self.num_layers is None and i else [teacher[i]]:
                yield (i, key), other

    def _projection_of(self, layer: int) -> nn.Module:
        return self.projection[layer] if isinstance(self.projection, nn.ModuleList) else self.projection

    def _projected(self, layer: int, key: Key, student_BLH: Tensor, mask_BL: Tensor) -> Tensor:
        """Runs under autocast. What stands in padding must not reach the projection's own gradient either."""
        require_mask(str(key), student_BLH, mask_BL)
        projection = self._projection_of(layer)
        if isinstance(projection, nn.Identity):
            return student_BLH
        projected_BLH: Tensor = projection(blank(student_BLH, mask_BL))
        return projected_BLH

    def _check_shapes(self, name: str, student: Tensor, teacher: Tensor) -> None:
        if student.dim() != 3 or teacher.dim() != 3:
            raise OutputError(f"{name}: {tuple(student.shape)} and {tuple(teacher.shape)} are no hidden states, which "
                              "are (rows, positions, width) or (rows, width)")
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


def _blanked(layers_BLH: Sequence[Tensor], mask_BL: Tensor) -> list[Tensor]:
    """In full precision, with zeros where the mask is 0; a layer that is given twice is made once."""
    made = {id(layer): layer for layer in layers_BLH}
    done = {number: blank(upcast(layer), mask_BL) for number, layer in made.items()}
    return [done[id(layer)] for layer in layers_BLH]
