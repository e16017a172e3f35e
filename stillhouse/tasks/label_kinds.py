"""What a row's label can be: one of several names, any number of them, or a number. Each kind says what follows."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from stillhouse.losses import BinaryLabels, HardLabels, Loss, SquaredError
from stillhouse.metrics import classification_metrics, multi_label_metrics, regression_metrics
from stillhouse.sections.values import LabelNames
from stillhouse.tasks.columns import numbers
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.labels import Labels
from stillhouse.tasks.said import Said, most_likely, number, share


class LabelKind(abc.ABC):
    """One kind of label, read from a column. Abstract.

    Args:
        column: where the labels are.
        given: their names, if the user lists them.
    """

    metric: ClassVar[str]
    problem_type: ClassVar[str]
    kd_losses: ClassVar[tuple[str, ...] | None]

    def __init__(self, column: str, given: LabelNames) -> None:
        self.column, self.given = column, given
        self.names: tuple[str, ...] = () if given is None or isinstance(given, str) else tuple(given)

    @abc.abstractmethod
    def read(self, rows: Rows) -> Sequence[Any]:
        """Each row's label as plain values. The first rows that are read decide the names. Raises `DataError`."""

    @abc.abstractmethod
    def tensor(self, labels: Sequence[Any]) -> Tensor:
        """Labels as the losses take them; None becomes what they leave out."""

    @abc.abstractmethod
    def hard_loss(self) -> Loss:
        """The loss between logits and labels."""

    @abc.abstractmethod
    def in_words(self, label: Any) -> Any:
        """One of the values that ``read`` gives, as people call it."""

    @abc.abstractmethod
    def judged(self, logits_NC: Tensor, labels: Tensor) -> Judgement:
        """What logits say, and how good they are."""


class _Named(LabelKind):
    """Labels with names. Abstract."""

    several: ClassVar[bool]
    _labels: Labels | None = None

    def labels_of(self, rows: Rows) -> Labels:
        """The names, from the first rows that are read."""
        if self._labels is None:
            self._labels = Labels.of(rows, self.column, self.given, several=self.several)
            self.names = self._labels.names
        return self._labels


@final
class OneName(_Named):
    """Exactly one name a row."""

    metric, problem_type, kd_losses, several = "accuracy", "single_label_classification", None, False

    def read(self, rows: Rows) -> Sequence[int]:
        return self.labels_of(rows).numbers(rows)

    def tensor(self, labels: Sequence[int | None]) -> Tensor:
        return torch.tensor([-100 if label is None else label for label in labels])

    def in_words(self, label: int) -> str:
        return self.names[label]

    def hard_loss(self) -> HardLabels:
        return HardLabels()

    def judged(self, logits_NC: Tensor, labels: Tensor) -> Judgement:
        answers_N = logits_NC.argmax(dim=-1)
        return Judgement(lambda: classification_metrics(logits_NC, labels), answers_N.numpy(),
                         lambda: self._said(logits_NC, answers_N))

    def _said(self, logits_NC: Tensor, answers_N: Tensor) -> list[Said]:
        shares_NC = logits_NC.double().softmax(dim=-1).tolist()
        return [{"label": self.names[answer], "confidence": share(shares_C[answer]),
                 "probabilities": most_likely(self.names, shares_C)}
                for answer, shares_C in zip(answers_N.tolist(), shares_NC, strict=True)]


@final
class SeveralNames(_Named):
    """Any number of names a row: 1 for each that it has, 0 for the others."""

    metric, problem_type, kd_losses, several = "micro_f1", "multi_label_classification", ("bernoulli_kl", "mse"), True

    def read(self, rows: Rows) -> Sequence[list[int]]:
        return self.labels_of(rows).sets(rows)

    def tensor(self, labels: Sequence[list[int] | None]) -> Tensor:
        none = [math.nan] * len(self.names)
        return torch.tensor([none if label is None else label for label in labels], dtype=torch.float32)

    def in_words(self, label: Sequence[int]) -> list[str]:
        return [name for name, has_it in zip(self.names, label, strict=True) if has_it]

    def hard_loss(self) -> BinaryLabels:
        return BinaryLabels()

    def judged(self, logits_NC: Tensor, labels: Tensor) -> Judgement:
        answers_NC = logits_NC.gt(0).long()
        return Judgement(lambda: multi_label_metrics(logits_NC, labels), answers_NC.numpy(),
                         lambda: self._said(logits_NC, answers_NC))

    def _said(self, logits_NC: Tensor, answers_NC: Tensor) -> list[Said]:
        shares_NC = logits_NC.double().sigmoid().tolist()
        return [{"labels": self.in_words(answers_C), "probabilities": most_likely(self.names, shares_C)}
                for answers_C, shares_C in zip(answers_NC.tolist(), shares_NC, strict=True)]


@final
class ANumber(LabelKind):
    """A number a row."""

    metric, problem_type, kd_losses = "spearman", "regression", ("mse",)

    def __init__(self, column: str, given: LabelNames) -> None:
        super().__init__(column, given)
        self.names = ("value",)

    def read(self, rows: Rows) -> Sequence[float]:
        return numbers(rows, self.column)

    def tensor(self, labels: Sequence[float | None]) -> Tensor:
        return torch.tensor([math.nan if label is None else label for label in labels], dtype=torch.float32)

    def in_words(self, label: float) -> float:
        return label

    def hard_loss(self) -> SquaredError:
        return SquaredError()

    def judged(self, logits_NC: Tensor, labels: Tensor) -> Judgement:
        numbers_N = logits_NC[:, 0]
        return Judgement(lambda: regression_metrics(numbers_N, labels), numbers_N.numpy().astype(np.float64),
                         lambda: [{"score": number(value)} for value in numbers_N.tolist()])


LABEL_KINDS: Mapping[str, type[LabelKind]] = {"single": OneName, "multi": SeveralNames, "regression": ANumber}
"""By what recipes call them."""
