"""Losses between attention maps of the two models.

The paper's four work on *scores*, the values before the softmax. Models that only give probabilities p take part with
log p in place of the scores: softmax(log p) = p. Adaptors see to that, under ``Key("attention_scores", layer)``.

Shape suffixes: h heads, L positions as queries, then as keys.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

from torch import Tensor

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses.base import Width, full_precision, require_same_shape, upcast
from stillhouse.losses.match import MatchLoss
from stillhouse.types import ATTENTION_SCORES, Features, Key, Masks, Unit

_JIAO = "Jiao et al. 2020, TinyBERT: Distilling BERT for Natural Language Understanding, arXiv:1909.10351"


class AttentionLoss(MatchLoss, abc.ABC):
    """A loss between one attention map of each model, (B, h, L, L), or (B, L, L) for one head. Abstract.

    Give ``total``. ``same_width`` says that both models must have as many heads.

    Args:
        student: the key of the student's map; ``Key("attention", n)`` stands for its scores.
        teacher: the key of the teacher's map.
    """

    reads = "attention"

    def __init__(self, student: Sequence[Key], teacher: Sequence[Key]) -> None:
        super().__init__([_scores(key) for key in student], [_scores(key) for key in teacher])

    @abc.abstractmethod
    def total(self, student_BhLL: Tensor, teacher_BhLL: Tensor, mask_BL: Tensor) -> Tensor:
        """The sum over ``unit``, of scores in which anything may stand where the mask is 0."""

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        mask_BL = masks["inputs"]
        scores = student[self.student_keys[0]], teacher[self.teacher_keys[0]]
        for side, tensor in zip(("student", "teacher"), scores, strict=True):
            self._require_maps(side, tensor, mask_BL)
        with full_precision(mask_BL):
            return self.masked_total([scores[0]], [scores[1]], mask_BL)

    def masked_total(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        student_BhLL, teacher_BhLL = (_with_heads(upcast(side[0])) for side in (student, teacher))
        if self.same_width:
            require_same_shape(type(self).__name__, student_BhLL, teacher_BhLL, _HEADS_REMEDY)
        return self.total(student_BhLL, teacher_BhLL, mask_BL)

    def check(self, student_width: Width, teacher_width: Width) -> None:
        heads = student_width(self.student_keys[0]), teacher_width(self.teacher_keys[0])
        if self.same_width and None not in heads and heads[0] != heads[1]:
            raise PlanError(f"{type(self).__name__}: the student has {heads[0]} attention heads, the teacher "
                            f"{heads[1]}; {_HEADS_REMEDY}")

    def _require_maps(self, side: str, scores: Tensor, mask_BL: Tensor) -> None:
        rows, length = mask_BL.shape
        if scores.dim() not in (3, 4) or (scores.shape[0], *scores.shape[-2:]) != (rows, length, length):
            raise OutputError(
                f"{type(self).__name__}: the {side} gives {tuple(scores.shape)}, the mask is {tuple(mask_BL.shape)}; "
                f"an attention map is (rows, heads, positions, positions), here ({rows}, heads, {length}, {length})"
            )


_HEADS_REMEDY = ("match maps with as many heads, or use attention_mse_sum or attention_ce_mean, which bring the heads "
                 "together first")


class AttentionMSE(AttentionLoss):
    """Squared distance of scores as a mean over heads, summed over pairs of kept positions."""

    paper = _JIAO
    unit = Unit.PAIR

    def total(self, student_BhLL: Tensor, teacher_BhLL: Tensor, mask_BL: Tensor) -> Tensor:
        return _pair_distance(student_BhLL, teacher_BhLL, mask_BL) / student_BhLL.shape[1]


class AttentionMSESum(AttentionLoss):
    """Squared distance of the scores summed over heads, summed over pairs of kept positions."""

    paper = _JIAO
    unit = Unit.PAIR
    same_width = False

    def total(self, student_BhLL: Tensor, teacher_BhLL: Tensor, mask_BL: Tensor) -> Tensor:
        return _pair_distance(student_BhLL.sum(1, keepdim=True), teacher_BhLL.sum(1, keepdim=True), mask_BL)


class AttentionCE(AttentionLoss):
    """Cross-entropy of attention distributions as a mean over heads, summed over kept queries.

    ``-sum_j softmax(T)_ij log_softmax(S)_ij`` over kept keys j. The softmax runs over all keys, as in the paper's
    toolkit: models give padded ones scores so low that they take no part, and a map that does not is not independent of
    its padding.
    """

    def total(self, student_BhLL: Tensor, teacher_BhLL: Tensor, mask_BL: Tensor) -> Tensor:
        return _query_cross_entropy(student_BhLL, teacher_BhLL, mask_BL) / student_BhLL.shape[1]


class AttentionCEMean(AttentionLoss):
    """`AttentionCE` of the scores averaged over heads."""

    same_width = False

    def total(self, student_BhLL: Tensor, teacher_BhLL: Tensor, mask_BL: Tensor) -> Tensor:
        return _query_cross_entropy(student_BhLL.mean(1, keepdim=True), teacher_BhLL.mean(1, keepdim=True), mask_BL)


def _scores(key: Key) -> Key:
    return Key(ATTENTION_SCORES, key.index) if key.kind == "attention" else key


def _with_heads(scores: Tensor) -> Tensor:
    return scores.unsqueeze(1) if scores.dim() == 3 else scores


def _pair_distance(student_BhLL: Tensor, teacher_BhLL: Tensor, mask_BL: Tensor) -> Tensor:
    kept_BL = mask_BL.ne(0)
    left_out = ~(kept_BL[:, None, :, None] & kept_BL[:, None, None, :])
    return (student_BhLL.masked_fill(left_out, 0) - teacher_BhLL.masked_fill(left_out, 0)).square().sum()


def _query_cross_entropy(student_BhLL: Tensor, teacher_BhLL: Tensor, mask_BL: Tensor) -> Tensor:
    kept_BL = mask_BL.ne(0)
    queries, keys = ~kept_BL[:, None, :, None], ~kept_BL[:, None, None, :]
    p_BhLL = teacher_BhLL.masked_fill(queries, 0).softmax(dim=-1).masked_fill(queries | keys, 0)
    logq_BhLL = student_BhLL.masked_fill(queries, 0).log_softmax(dim=-1)
    return -(p_BhLL * logq_BhLL.masked_fill(p_BhLL.eq(0), 0)).sum()
