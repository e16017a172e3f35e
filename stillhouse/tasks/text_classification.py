"""Text classification: one label for a text or a pair of texts; or several labels; or a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from stillhouse.adaptors import HuggingFaceAdaptor
from stillhouse.errors import DataError, OutputError
from stillhouse.losses import Loss
from stillhouse.sections.values import LabelNames
from stillhouse.tasks.answering import Answers
from stillhouse.tasks.base import DataSpec, Examples, Task, TextColumns
from stillhouse.tasks.batching import EncodedSplit
from stillhouse.tasks.columns import texts
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.label_kinds import LABEL_KINDS
from stillhouse.tasks.tokenizing import tokenized
from stillhouse.types import LOGITS


class TextClassificationData(DataSpec):
    """The data of a text classification."""

    text: str = "text"
    """The column with the text, or with the first text of a pair."""
    text_pair: str | None = None
    """The column with the second text, for pairs."""
    label: str = "label"
    """The column with the label: a name, or a number from 0; with several labels a list of such."""
    labels: Literal["single", "multi", "regression"] = "single"
    """single: one label a row; multi: any number of labels a row; regression: the label is a number to be predicted."""
    label_names: LabelNames = None
    """The names of the labels in order: a file (a JSON list, a JSON object with a list for the label column, or a name
    a line) or a list. Needed for numbers, optional for names."""

    name_columns = ("text", "text_pair", "label")


@final
class TextClassification(Task[TextClassificationData]):
    """Accuracy and macro-F1 of one label a row; F1 of several; correlation of a number.

    The names end up in the model's ``id2label``. What is said of an example: ``label``, its ``confidence`` and the
    likeliest labels' ``probabilities``; of several labels ``labels`` and ``probabilities``; of a number ``score``.
    """

    name = "text-classification"
    data = TextClassificationData
    auto_class = AutoModelForSequenceClassification
    head = "ForSequenceClassification"
    answers_rows = True
    text_columns: ClassVar[TextColumns] = {"text": "text", "text_pair": "text"}
    label_columns = ("label",)

    def __init__(self, spec: TextClassificationData) -> None:
        super().__init__(spec)
        self._labels = LABEL_KINDS[spec.labels](spec.label, spec.label_names)
        self.metric, self.problem_type = self._labels.metric, self._labels.problem_type
        self.kd_losses = self._labels.kd_losses
        self.label_names = self._labels.names

    def examples(self, rows: Rows, split: str) -> Examples:
        columns = self.read_inputs(rows)
        columns["label"] = self._labels_where_given(rows) if self.may_lack_labels and split == "train" else (
            self._labels.read(rows))
        self.label_names = self._labels.names
        return Examples(columns)

    def read_inputs(self, rows: Rows) -> dict[str, Sequence[Any]]:
        columns: dict[str, Sequence[Any]] = {"text": texts(rows, self.spec.text)}
        if self.spec.text_pair is not None:
            columns["text_pair"] = texts(rows, self.spec.text_pair)
        return columns

    def gold(self, examples: Examples) -> list[Any]:
        return [None if label is None else self._labels.in_words(label) for label in examples["label"]]

    def _labels_where_given(self, rows: Rows) -> Sequence[Any]:
        """The label of each row, None where there is none or no such column."""
        values = rows.columns.get(self.spec.label, [None] * len(rows))
        labelled = [index for index, value in enumerate(values) if value not in (None, "")]
        if not labelled and self.spec.label_names is None:
            raise DataError(f"{rows.source}: no row has a label in column {self.spec.label!r}, so there is nothing to "
                            "take the names of the labels from; list them in data.label_names")
        places = labelled if rows.places is None else [rows.places[index] for index in labelled]
        given = {self.spec.label: [values[index] for index in labelled]}
        part = dataclasses.replace(rows, columns=given, places=places)
        found = dict(zip(labelled, self._labels.read(part), strict=True))
        return [found.get(index) for index in range(len(rows))]

    def adaptor(self) -> HuggingFaceAdaptor:
        return HuggingFaceAdaptor(self.predicts)

    def hard_loss(self) -> Loss:
        return self._labels.hard_loss()

    def encoded(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        pairs = examples["text_pair"] if "text_pair" in examples.columns else None
        tokens = tokenized(tokenizer, examples["text"], pairs, max_length=self.spec.max_length)
        return EncodedSplit.of(tokenizer, tokens, {"labels": self._labels.tensor(examples["label"])})

    def judged(self, encoded: EncodedSplit, outputs: Answers) -> Judgement:
        logits = torch.empty(len(encoded), len(self.label_names))
        for rows, features in outputs:
            logits[rows] = self._checked_logits(features[LOGITS], len(rows))
        return self._labels.judged(logits, encoded.rows["labels"])

    def _checked_logits(self, logits: Tensor, num_rows: int) -> Tensor:
        if logits.shape != (num_rows, len(self.label_names)):
            raise OutputError(f"the model gave logits of {tuple(logits.shape)} for {num_rows} rows and "
                              f"{len(self.label_names)} labels; load it with the task's load_model")
        return logits
