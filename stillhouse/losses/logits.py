"""Losses between the student's and the teacher's logits, and between the student's logits and labels."""

from __future__ import annotations

import abc

import torch.nn.functional as F
from torch import Tensor

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses.base import (
    Loss,
    Width,
    as_tokens,
    blank,
    full_precision,
    require_mask,
    require_same_shape,
    upcast,
)
from stillhouse.needs import Needs
from stillhouse.types import LABELS, Features, Key, Masks, Over, Unit, logits_mask_name

CLASSES_REMEDY = "both models must predict the same classes in the same order"


def check_classes(key: Key, student_width: Width, teacher_width: Width) -> None:
    """Raise `PlanError` if both class counts are known and differ."""
    student, teacher = student_width(key), teacher_width(key)
    if student is not None and teacher is not None and student != teacher:
        raise PlanError(f"{key}: the student predicts {student} labels, the teacher {teacher}; {CLASSES_REMEDY}")


class LogitsLoss(Loss, abc.ABC):
    """A loss that compares logits position by position. Abstract: give ``per_token``.

    Logits are (B, C), one prediction a row, or (B, L, C). The sum is over the positions that the student's logits
    mask keeps (rows, for (B, C)).

    Args:
        temperature: divides both logits.
        head: which logits head, for models that give several.
    """

    def __init__(self, temperature: float = 1.0, head: int = 0) -> None:
        super().__init__()
        if not temperature > 0:
            raise PlanError(f"temperature {temperature!r}: it divides the logits and must be above 0")
        self.temperature = temperature
        self.head = head
        self.key = Key("logits", head)
        self.needs = Needs.of([self.key], [self.key])
        self.over = Over(Unit.TOKEN, logits_mask_name(head))

    @staticmethod
    @abc.abstractmethod
    def per_token(student_BLC: Tensor, teacher_BLC: Tensor, temperature: float | Tensor) -> Tensor:
        """The loss of each position, (B, L). ``temperature`` is a number or broadcasts against the logits."""

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        student_BLC, teacher_BLC = as_tokens(student[self.key]), as_tokens(teacher[self.key])
        mask_BL = masks[self.over.mask]
        require_same_shape(str(self.key), student_BLC, teacher_BLC, CLASSES_REMEDY)
        require_mask(str(self.key), student_BLC, mask_BL)
        with full_precision(student_BLC):
            values_BL = self.per_token(
                blank(upcast(student_BLC), mask_BL), blank(upcast(teacher_BLC), mask_BL), self.temperature
            )
            return (values_BL * mask_BL.ne(0)).sum()

    def check(self, student_width: Width, teacher_width: Width) -> None:
        check_classes(self.key, student_width, teacher_width)


class SoftCrossEntropy(LogitsLoss):
    """Cross-entropy of the student's softened distribution under the teacher's.

    ``-sum_c softmax(T / t)_c log_softmax(S / t)_c``, without a factor of t**2 (as the paper's toolkit has it). Its
    smallest value is the teacher's entropy, not 0, so look at `ForwardKL` beside it.
    """

    paper = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531"

    @staticmethod
    def per_token(student_BLC: Tensor, teacher_BLC: Tensor, temperature: float | Tensor) -> Tensor:
        return -_expected((teacher_BLC / temperature).softmax(dim=-1), (student_BLC / temperature).log_softmax(dim=-1))


class LogitMSE(LogitsLoss):
    """Squared distance of the logits divided by the temperature, as a mean over classes."""

    paper = "Ba & Caruana 2014, Do Deep Nets Really Need to be Deep?, arXiv:1312.6184"

    @staticmethod
    def per_token(student_BLC: Tensor, teacher_BLC: Tensor, temperature: float | Tensor) -> Tensor:
        return (student_BLC / temperature - teacher_BLC / temperature).square().mean(dim=-1)


class ForwardKL(LogitsLoss):
    """KL(teacher || student) of the softened distributions, times t**2.

    The factor keeps the size of the gradient independent of the temperature; every divergence of the recipes has it.
    The gradient is that of `SoftCrossEntropy` times t**2; the value is 0 when the student equals the teacher.
    """

    paper = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531"

    @staticmethod
    def per_token(student_BLC: Tensor, teacher_BLC: Tensor, temperature: float | Tensor) -> Tensor:
        student_logp = (student_BLC / temperature).log_softmax(dim=-1)
        teacher_logp = (teacher_BLC / temperature).log_softmax(dim=-1)
        divergence = _expected(teacher_logp.exp(), teacher_logp - student_logp)
        scale = temperature**2
        return divergence * (scale.squeeze(-1) if isinstance(scale, Tensor) else scale)


def _expected(p_BLC: Tensor, values_BLC: Tensor) -> Tensor:
    """The mean of values under a distribution; a class of probability 0 adds nothing, even if its value is -inf."""
    return (p_BLC * values_BLC.masked_fill(p_BLC.eq(0), 0.0)).sum(dim=-1)


class HardLabels(Loss):
    """Cross-entropy of the student's logits with the data's labels; negative labels are left out."""

    def __init__(self, head: int = 0) -> None:
        super().__init__()
        self.key = Key("logits", head)
        self.needs = Needs.of([self.key, LABELS])
        self.over = Over(Unit.TOKEN, "labels")

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        logits_BLC, labels_BL = as_tokens(student[self.key]), student[LABELS]
        labels_BL = labels_BL.unsqueeze(1) if labels_BL.dim() == 1 else labels_BL
        if logits_BLC.shape[:2] != labels_BL.shape:
            raise OutputError(f"labels have shape {tuple(labels_BL.shape)}, the logits {tuple(logits_BLC.shape)}")
        ignored = labels_BL.lt(0) | masks["labels"].eq(0)
        with full_precision(logits_BLC):
            return F.cross_entropy(
                blank(upcast(logits_BLC), ~ignored).flatten(0, 1),
                labels_BL.masked_fill(ignored, -100).flatten(),
                ignore_index=-100,
                reduction="sum",
            )
