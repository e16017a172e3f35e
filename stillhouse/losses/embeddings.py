"""Losses between the vectors that two models give a text."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.adaptors.sentence_embedding import EMBEDDING
from stillhouse.losses.features import FeatureLoss
from stillhouse.losses.hidden import HiddenMSE
from stillhouse.types import Unit


class EmbeddingLoss(FeatureLoss, abc.ABC):
    """A loss between the models' vectors of each row, (B, H). Abstract: give ``total``.

    The sum is over rows that have any token.

    Args:
        projection: maps the student's vectors to the teacher's width; trained with the student.
    """

    unit = Unit.ROW

    def __init__(self, projection: nn.Module | None = None) -> None:
        super().__init__([EMBEDDING], [EMBEDDING], projection)


class EmbeddingCosine(EmbeddingLoss):
    """One minus the cosine of the two vectors, summed over rows. A zero vector counts 1, without a gradient."""

    paper = "Zhang et al. 2024, Jasper and Stella: distillation of SOTA embedding models, arXiv:2412.19048"

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        cosine_BL = (_directions(student_BLH[0]) * _directions(teacher_BLH[0])).sum(dim=-1)
        return ((1 - cosine_BL) * mask_BL.ne(0)).sum()


class EmbeddingMSE(EmbeddingLoss):
    """Squared distance of the two vectors, as a mean over features, summed over rows."""

    paper = "Reimers & Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual using Knowledge " \
            "Distillation, arXiv:2004.09813"

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        return HiddenMSE.distance(student_BLH[0], teacher_BLH[0])


class EmbeddingRelation(EmbeddingLoss):
    """How far the rows' likeness to each other differs: squared difference of the cosines between rows of a batch.

    For each row it is the mean over the other rows of the micro-batch, and the sum is over rows; a single row gives 0.
    The two models may be of different widths.
    """

    paper = "Park et al. 2019, Relational Knowledge Distillation, arXiv:1904.05068; of cosines: Tung & Mori 2019, " \
            "Similarity-Preserving Knowledge Distillation, arXiv:1907.09682"
    scope = "batch"
    same_width = False

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        kept_B = mask_BL.ne(0).any(dim=1)
        others_BB = (kept_B[:, None] & kept_B[None, :]).fill_diagonal_(False)
        difference_BB = _cosines_BB(student_BLH[0]) - _cosines_BB(teacher_BLH[0])
        return (difference_BB.square() * others_BB).sum() / (kept_B.sum() - 1).clamp_min(1)


EMBEDDING_LOSSES: Mapping[str, type[EmbeddingLoss]] = {
    "cosine": EmbeddingCosine,
    "mse": EmbeddingMSE,
    "relation": EmbeddingRelation,
}
"""What recipes call them."""


def _cosines_BB(vectors_BLH: Tensor) -> Tensor:
    """Between every two rows, of one vector each."""
    directions_BH = _directions(vectors_BLH[:, 0])
    return directions_BH @ directions_BH.T


def _directions(vectors: Tensor) -> Tensor:
    """Vectors of length 1. A zero vector stays one, and has no gradient: it would be one over an epsilon."""
    is_zero = vectors.eq(0).all(dim=-1, keepdim=True)
    return torch.where(is_zero, 0.0, F.normalize(vectors.masked_fill(is_zero, 1.0), dim=-1))
