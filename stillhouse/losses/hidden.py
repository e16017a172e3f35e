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
    """One minus the cosine of hidden states, summed over kept positions. A zero vector counts 1 and has no NaN."""

    paper = "Sanh et al. 2019, DistilBERT, arXiv:1910.01108"

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        distance_BL = 1 - F.cosine_similarity(student_BLH[0], teacher_BLH[0], dim=-1)
        return (distance_BL * mask_BL.ne(0)).sum()


class PKD(FeatureLoss):
    """Squared distance of the L2-normalised states at the first position, summed over rows."""

    paper = "Sun et al. 2019, Patient Knowledge Distillation for BERT Model Compression, arXiv:1908.09355"
    unit = Unit.ROW
    ignores_mask = True

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        student_BH, teacher_BH = F.normalize(student_BLH[0][:, 0], dim=-1), F.normalize(teacher_BLH[0][:, 0], dim=-1)
        return (student_BH - teacher_BH).square().sum()
