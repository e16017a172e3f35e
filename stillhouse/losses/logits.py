"""Losses between the student's and the teacher's logits."""

from __future__ import annotations

import abc

import torch
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
from stillhouse.losses.labels import labels_for
from stillhouse.losses.temperature import Strategy, constant, temperatures
from stillhouse.needs import Needs
from stillhouse.types import LABELS, Features, Key, Masks, Over, Unit, logits_mask_name

CLASSES_REMEDY = "both models must predict the same classes in the same order"


class KDLoss(Loss, abc.ABC):
    """A loss between the student's logits and the teacher's, whoever wrote the formula. Abstract.

    Logits are (B, C), one prediction a row, or (B, L, C). The sum is over the positions that the student's logits
    mask keeps (rows, for (B, C)). Where both sides' logits are minus infinity there is no class, as outside the text
    that an answer may be in.

    Args:
        temperature: divides both logits.
        head: which logits head, for models that give several.
        strategy: gives each prediction a temperature of its own, from ``temperature``; see
            `stillhouse.losses.temperature`.
        probability_shift: exchange the teacher's logit of the right class with its largest one first, so that the
            teacher is never wrong (Wen et al. 2019, Preparing Lessons: Improve Knowledge
            Distillation with Better Supervision, arXiv:1911.07471). Negative labels leave the
            teacher as it is.
    """

    def __init__(self, temperature: float = 1.0, head: int = 0, *, strategy: Strategy | None = None,
                 probability_shift: bool = False) -> None:
        super().__init__()
        if not temperature > 0:
            raise PlanError(f"temperature {temperature!r}: it divides the logits and must be above 0")
        self.temperature, self.head = temperature, head
        self.strategy, self.probability_shift = strategy, probability_shift
        self.key = Key("logits", head)
        self.needs = Needs.of([self.key, LABELS] if probability_shift else [self.key], [self.key])
        self.over = Over(Unit.TOKEN, logits_mask_name(head))
        if strategy not in (None, constant):
            self.scope = "batch"

    def check(self, student_width: Width, teacher_width: Width) -> None:
        student, teacher = student_width(self.key), teacher_width(self.key)
        if student is not None and teacher is not None and student != teacher:
            raise PlanError(f"{self.key}: the student predicts {student} labels, the teacher {teacher}; "
                            f"{CLASSES_REMEDY}")

    def predictions(self, student: Features, teacher: Features, masks: Masks) -> tuple[Tensor, Tensor, Tensor]:
        """Both sides' logits as (B, L, C), the teacher's shifted if that is asked for, and what is kept, (B, L)."""
        student_BLC, teacher_BLC = as_tokens(student[self.key]), as_tokens(teacher[self.key])
        kept_BL = masks[self.over.mask].ne(0)
        for side, logits_BLC in (("student", student_BLC), ("teacher", teacher_BLC)):
            require_mask(f"the {side}'s {self.key}", logits_BLC, kept_BL)
        student_BLC, teacher_BLC = blank(upcast(student_BLC), kept_BL), blank(upcast(teacher_BLC), kept_BL)
        if self.probability_shift:
            teacher_BLC = shifted(teacher_BLC, labels_for(student_BLC, student[LABELS]), kept_BL)
        return student_BLC, teacher_BLC, kept_BL


class LogitsLoss(KDLoss, abc.ABC):
    """A loss that compares logits position by position. Abstract: give ``per_token``."""

    @staticmethod
    @abc.abstractmethod
    def per_token(student_BLC: Tensor, teacher_BLC: Tensor, temperature: float | Tensor) -> Tensor:
        """The loss of each position, (B, L). ``temperature`` is a number or broadcasts against the logits."""

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        student_BLC, teacher_BLC, kept_BL = self.predictions(student, teacher, masks)
        require_same_shape(str(self.key), student_BLC, teacher_BLC, CLASSES_REMEDY)
        with full_precision(student_BLC):
            values_BL = self.per_token(student_BLC, teacher_BLC, self._temperature(student_BLC, teacher_BLC, kept_BL))
            return (values_BL * kept_BL).sum()

    def _temperature(self, student_BLC: Tensor, teacher_BLC: Tensor, kept_BL: Tensor) -> float | Tensor:
        if self.strategy is None:
            return self.temperature
        found = temperatures(self.strategy, student_BLC[kept_BL], teacher_BLC[kept_BL], self.temperature)
        if not isinstance(found, Tensor) or found.dim() == 0:
            return found
        each_BL = student_BLC.new_full(kept_BL.shape, self.temperature)
        each_BL[kept_BL] = found.to(each_BL.dtype)
        return each_BL.unsqueeze(-1)


def shifted(teacher_BLC: Tensor, labels_BL: Tensor, kept_BL: Tensor) -> Tensor:
    """Teacher logits in which the label's has changed places with the largest; as they are where a label is negative.

    Raises `OutputError` for a kept label that is no class.
    """
    counted = labels_BL.ge(0) & kept_BL
    classes = teacher_BLC.shape[-1]
    own = labels_BL.masked_fill(~counted, 0).unsqueeze(-1)
    if bool(own.ge(classes).any()):
        raise OutputError(f"probability_shift: label {int(own.max())} is none of the {classes} classes")
    top = teacher_BLC.argmax(dim=-1, keepdim=True)
    values = teacher_BLC.gather(-1, own), teacher_BLC.gather(-1, top)
    exchanged = teacher_BLC.scatter(-1, top, values[0]).scatter(-1, own, values[1])
    return torch.where(counted.unsqueeze(-1), exchanged, teacher_BLC)


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
        no_class_BLC = teacher_BLC.isneginf()
        difference_BLC = (student_BLC / temperature - teacher_BLC / temperature).masked_fill(no_class_BLC, 0.0)
        classes_BL = teacher_BLC.shape[-1] - no_class_BLC.sum(dim=-1)
        return difference_BLC.square().sum(dim=-1) / classes_BL.clamp_min(1)


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


class BernoulliKL(LogitsLoss):
    """KL(teacher || student) of each class's own yes or no, softened, as a mean over classes, times t**2.

    For several labels a row, where the logits of a class do not compete with those of others.
    """

    @staticmethod
    def per_token(student_BLC: Tensor, teacher_BLC: Tensor, temperature: float | Tensor) -> Tensor:
        student_BLC, teacher_BLC = student_BLC / temperature, teacher_BLC / temperature
        yes, no = F.logsigmoid(teacher_BLC), F.logsigmoid(-teacher_BLC)
        divergence = yes.exp() * (yes - F.logsigmoid(student_BLC)) + no.exp() * (no - F.logsigmoid(-student_BLC))
        scale = temperature**2
        return divergence.mean(dim=-1) * (scale.squeeze(-1) if isinstance(scale, Tensor) else scale)


def _expected(p_BLC: Tensor, values_BLC: Tensor) -> Tensor:
    """The mean of values under a distribution; a class of probability 0 adds nothing, even if its value is -inf."""
    return (p_BLC * values_BLC.masked_fill(p_BLC.eq(0), 0.0)).sum(dim=-1)
