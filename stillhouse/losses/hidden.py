"""Losses between one hidden state of the student and one of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from stillhouse.losses.features import FeatureLoss
from stillhouse.types import Unit


class HiddenMSE(FeatureLoss):
    """Squared distance of hidden states, as a mean over features, summed over kept positions."""

    paper = "Jiao et al. 2020, TinyBERT: Distilling BERT for Natural Language Understanding, arXiv:1909.10351"

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        return self.distance(student_BLH[0], teacher_BLH[0])

    @staticmethod
    def distance(student_BLH: Tensor, teacher_BLH: Tensor) -> Tensor:
        """The sum over positions of the mean squared difference."""
        return (student_BLH - teacher_BLH).square().mean(dim=-1).sum()


class Cosine(FeatureLoss):
    """One minus the cosine of hidden states, summed over kept positions. A zero vector counts 1, without a gradient."""

    paper = "Sanh et al. 2019, DistilBERT, arXiv:1910.01108"

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        cosine_BL = F.cosine_similarity(student_BLH[0], teacher_BLH[0], dim=-1).masked_fill(_is_zero(student_BLH[0]), 0)
        return ((1 - cosine_BL) * mask_BL.ne(0)).sum()


class PKD(FeatureLoss):
    """Squared distance of the L2-normalised states at the first position, summed over rows."""

    paper = "Sun et al. 2019, Patient Knowledge Distillation for BERT Model Compression, arXiv:1908.09355"
    unit = Unit.ROW
    first_only = True

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        first_BH = student_BLH[0][:, 0]
        student_BH = F.normalize(first_BH, dim=-1).masked_fill(_is_zero(first_BH).unsqueeze(-1), 0)
        return (student_BH - F.normalize(teacher_BLH[0][:, 0], dim=-1)).square().sum()


def _is_zero(vectors: Tensor) -> Tensor:
    """Where there is no direction: there the gradient would be one over an epsilon, infinite in half precision."""
    return vectors.eq(0).all(dim=-1)
