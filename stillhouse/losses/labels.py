"""Losses between the student's logits and the labels in the data."""

from __future__ import annotations

import abc

import torch.nn.functional as F
from torch import Tensor

from stillhouse.errors import OutputError
from stillhouse.losses.base import Loss, as_tokens, blank, full_precision, upcast
from stillhouse.needs import Needs
from stillhouse.types import LABELS, Features, Key, Masks, Over, Unit


def labels_for(logits_BLC: Tensor, labels: Tensor) -> Tensor:
    """Labels as (B, L), one for each prediction. Raises `OutputError` if they are not."""
    labels_BL = labels.unsqueeze(1) if labels.dim() == 1 else labels
    if logits_BLC.shape[:2] != labels_BL.shape:
        raise OutputError(f"labels have shape {tuple(labels.shape)}, the logits of (rows, positions) "
                          f"{tuple(logits_BLC.shape[:2])}; there must be one for each prediction")
    return labels_BL


class HardLabels(Loss):
    """Cross-entropy of the student's logits with the data's labels; negative labels are left out."""

    def __init__(self, head: int = 0) -> None:
        super().__init__()
        self.key = Key("logits", head)
        self.needs = Needs.of([self.key, LABELS])
        self.over = Over(Unit.TOKEN, "labels")

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        logits_BLC = as_tokens(student[self.key])
        labels_BL = labels_for(logits_BLC, student[LABELS])
        ignored = labels_BL.lt(0) | masks["labels"].eq(0)
        with full_precision(logits_BLC):
            return F.cross_entropy(
                blank(upcast(logits_BLC), ~ignored).flatten(0, 1),
                labels_BL.masked_fill(ignored, -100).flatten(),
                ignore_index=-100,
                reduction="sum",
            )


class RowLabels(Loss, abc.ABC):
    """A loss of rows whose labels are numbers as their logits are, (B, C); a row without labels holds NaN. Abstract."""

    def __init__(self) -> None:
        super().__init__()
        self.key = Key("logits", 0)
        self.needs = Needs.of([self.key, LABELS])
        self.over = Over(Unit.ROW, "labels")

    @staticmethod
    @abc.abstractmethod
    def per_row(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        """The loss of each row, (B,)."""

    def forward(self, student: Features, teacher: Features, masks: Masks) -> Tensor:
        logits_BC, labels_BC = student[self.key], student[LABELS]
        if logits_BC.dim() == labels_BC.dim() + 1:  # one number a row
            labels_BC = labels_BC.unsqueeze(-1)
        if logits_BC.shape != labels_BC.shape:
            raise OutputError(f"labels have shape {tuple(student[LABELS].shape)}, the logits {tuple(logits_BC.shape)}; "
                              "there must be one for each number")
        ignored_B1 = masks["labels"].eq(0)
        with full_precision(logits_BC):
            logits_BC = upcast(logits_BC).masked_fill(ignored_B1, 0.0)
            wanted_BC = labels_BC.masked_fill(ignored_B1, 0.0).to(logits_BC.dtype)
            return self.per_row(logits_BC, wanted_BC).masked_fill(ignored_B1.squeeze(-1), 0.0).sum()


class BinaryLabels(RowLabels):
    """Binary cross-entropy of each class's own logit, as a mean over classes, summed over rows; labels are 0 or 1."""

    @staticmethod
    def per_row(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits_BC, labels_BC, reduction="none").mean(dim=-1)


class SquaredError(RowLabels):
    """Squared error of the student's one number a row, (B, 1), with the data's, (B,), summed over rows."""

    @staticmethod
    def per_row(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        return (logits_BC - labels_BC).square().sum(dim=-1)
