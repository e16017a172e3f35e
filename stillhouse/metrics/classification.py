"""Metrics of classification: one label a row, or several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.errors import DataError, OutputError

Classes = Tensor | Sequence[int]
"""Class numbers, one a row: a tensor of (N,) or any sequence of integers."""


def accuracy(predictions: Classes, labels: Classes) -> float:
    """The share of rows whose prediction is the label, 0 to 1. Raises `DataError` if there are none or too few."""
    from sklearn.metrics import accuracy_score

    predicted, wanted = _paired(predictions, labels)
    return float(accuracy_score(wanted.numpy(), predicted.numpy()))


def macro_f1(predictions: Classes, labels: Classes, num_labels: int) -> float:
    """The mean F1 over the classes that occur among the labels or the predictions, 0 to 1.

    Classes that occur in neither say nothing and are left out, so a test file that lacks a rare class is not punished;
    a class that occurs but is never predicted rightly counts as 0. Raises `DataError` for a label outside
    0 to ``num_labels - 1``, such as the -100 of a row without a label.
    """
    from sklearn.metrics import f1_score

    predicted, wanted = _paired(predictions, labels)
    for what, values in (("label", wanted), ("prediction", predicted)):
        outside = values[(values < 0) | (values >= num_labels)]
        if len(outside):
            raise DataError(f"{what} {int(outside[0])} is outside 0 to {num_labels - 1} ({len(outside)} of "
                            f"{len(values)} rows): leave out rows without a label, or correct the number of labels")
    return float(f1_score(wanted.numpy(), predicted.numpy(), average="macro", zero_division=0))


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``accuracy`` and ``macro_f1`` of logits (N, C) against labels (N,).

    Raises `OutputError` if the logits are not one row of scores a row, `DataError` for labels that do not fit.
    """
    if logits.dim() != 2:
        raise OutputError(f"classification needs logits of (rows, labels), got {tuple(logits.shape)}")
    predictions = logits.argmax(dim=-1)
    return {"accuracy": accuracy(predictions, labels), "macro_f1": macro_f1(predictions, labels, logits.shape[-1])}


def multi_label_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``micro_f1``, ``macro_f1`` and ``subset_accuracy``, 0 to 1, of logits (N, C) against labels (N, C) of 0 and 1.

    A class is predicted where its logit is above 0 (a probability above one half). ``micro_f1`` counts all classes
    together; ``macro_f1`` is the mean over the classes that occur among the labels or the predictions; both are 0 if
    none occurs. ``subset_accuracy`` is the share of rows with every class right. Raises `OutputError` if the logits are
    not one row of scores a row, `DataError` if the labels are of another shape, no rows, or other than 0 and 1.
    """
    if logits.dim() != 2:
        raise OutputError(f"multi-label classification needs logits of (rows, labels), got {tuple(logits.shape)}")
    if labels.shape != logits.shape:
        raise DataError(f"labels {tuple(labels.shape)} must be of the shape of the logits, {tuple(logits.shape)}: "
                        "a 0 or 1 for each class of each row")
    if not len(labels):
        raise DataError("no rows to score: give at least one row with labels")
    predicted, wanted = logits.detach().cpu() > 0, labels.detach().cpu()
    outside = wanted[(wanted != 0) & (wanted != 1)]
    if len(outside):
        raise DataError(f"label {float(outside[0]):g} is neither 0 nor 1 ({len(outside)} of {wanted.numel()} labels): "
                        "leave out rows without labels")
    wrong_of_row = predicted != wanted.bool()
    hits, wrong = (predicted & wanted.bool()).sum(dim=0), wrong_of_row.sum(dim=0)
    occurs = hits + wrong > 0
    scores = 2 * hits[occurs].double() / (2 * hits + wrong)[occurs]
    return {
        "micro_f1": float(2 * hits.sum().double() / (2 * hits + wrong).sum().clamp(min=1)),
        "macro_f1": float(scores.mean()) if len(scores) else 0.0,
        "subset_accuracy": float((~wrong_of_row.any(dim=1)).double().mean()),
    }


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """The share of rows for which student and teacher give the same answer, 0 to 1, whatever the labels.

    Both are (N, C). Raises `OutputError` if they differ in shape, `DataError` if there are no rows.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
        raise OutputError(f"agreement needs two logits of the same (rows, labels), got {tuple(student_logits.shape)} "
                          f"of the student and {tuple(teacher_logits.shape)} of the teacher")
    return accuracy(student_logits.argmax(dim=-1), teacher_logits.argmax(dim=-1))


def _paired(predictions: Classes, labels: Classes) -> tuple[Tensor, Tensor]:
    """Both as integer tensors of (N,) on the CPU."""
    predicted, wanted = (torch.as_tensor(values).detach().cpu() for values in (predictions, labels))
    if predicted.dim() != 1 or predicted.shape != wanted.shape:
        raise DataError(f"predictions {tuple(predicted.shape)} and labels {tuple(wanted.shape)} must be as many, "
                        "one number a row")
    if not len(wanted):
        raise DataError("no rows to score: give at least one row with a label")
    return predicted.long(), wanted.long()
