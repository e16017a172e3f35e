"""Multiple choice: a question and several answers, of which one is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from transformers import AutoModelForMultipleChoice, PreTrainedTokenizerBase

from stillhouse.adaptors import HuggingFaceAdaptor
from stillhouse.errors import DataError, OutputError
from stillhouse.metrics import accuracy
from stillhouse.sections.values import Columns
from stillhouse.tasks.answering import Answers
from stillhouse.tasks.base import DataSpec, Examples, Task, TextColumns
from stillhouse.tasks.batching import EncodedSplit
from stillhouse.tasks.columns import place, text_lists, texts
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.said import Said, share
from stillhouse.tasks.tokenizing import tokenized
from stillhouse.types import LOGITS

_NUMBER, _LETTER = re.compile(r"\d+"), re.compile(r"[A-Za-z]")


class MultipleChoiceData(DataSpec):
    """The data of a multiple choice. Every row has as many choices; the model reads the question with each of them."""

    question: str = "question"
    """The column with the question, or whatever text the choices continue."""
    choices: Columns = ("choices",)
    """The column with a list of texts, or a list of columns with a text each."""
    label: str = "label"
    """The column with the right choice: its number from 0, or its letter from A."""

    name_columns = ("question", "choices", "label")


@final
class MultipleChoice(Task[MultipleChoiceData]):
    """Accuracy. The model gives one number for a question with a choice; the choice with the largest is its answer.

    What is said of an example: ``choice``, counted from 0, its ``confidence``, and the ``probabilities`` of all.
    """

    name = "multiple-choice"
    data = MultipleChoiceData
    auto_class = AutoModelForMultipleChoice
    head = "ForMultipleChoice"
    predicts = "choices"
    metric = "accuracy"
    answers_rows = True
    text_columns: ClassVar[TextColumns] = {"question": "text", "choices": "kept"}
    label_columns = ("label",)

    def __init__(self, spec: MultipleChoiceData) -> None:
        super().__init__(spec)
        self.num_choices = 0

    def examples(self, rows: Rows, split: str) -> Examples:
        return Examples({**self.read_inputs(rows), "label": self._numbers(rows)})

    def read_inputs(self, rows: Rows) -> dict[str, Sequence[Any]]:
        return {"question": texts(rows, self.spec.question), "choices": self._choices(rows)}

    def gold(self, examples: Examples) -> list[int | None]:
        return list(examples["label"])

    def _choices(self, rows: Rows) -> Sequence[list[str]]:
        """As many texts for every row of every split. Raises `DataError`."""
        columns = self.spec.choices
        if len(columns) == 1:
            found = text_lists(rows, columns[0])
        else:
            found = [list(row) for row in zip(*(texts(rows, column) for column in columns), strict=True)]
        self.num_choices = self.num_choices or len(found[0])
        for index, choices in enumerate(found):
            where = place(rows, index, columns[0])
            if len(choices) != self.num_choices:
                raise DataError(f"{where}: the number of choices is {len(choices)}, but {self.num_choices} in the "
                                "first row that was read; every row needs as many")
            if len(choices) < 2:
                raise DataError(f"{where}: there is one choice; give at least 2 a row")
        return found

    def _numbers(self, rows: Rows) -> list[int]:
        """The right choice of each row, from 0. Raises `DataError`."""
        column = self.spec.label
        values = rows.column(column)
        letters = {index for index, value in enumerate(values) if isinstance(value, str) and _LETTER.fullmatch(value)}
        numbers = []
        for index, value in enumerate(values):
            number = ord(value.upper()) - ord("A") if index in letters else _whole(value)
            if letters and index not in letters and number is not None:
                raise DataError(f"{place(rows, index, column)}: {value!r} is a number, but other rows have letters, so "
                                "it may count from 0 or from 1; write letters in all")
            if number is None or not 0 <= number < self.num_choices:
                shown = "there is no answer" if value in (None, "") else f"{value!r:.80} is none of the choices"
                last = self.num_choices - 1
                raise DataError(f"{place(rows, index, column)}: {shown}; write a number from 0 to {last}, or a letter "
                                f"from A to {chr(ord('A') + last)}")
            numbers.append(number)
        return numbers

    def adaptor(self) -> HuggingFaceAdaptor:
        return HuggingFaceAdaptor(self.predicts)

    def encoded(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        num_choices = self.num_choices
        questions = [question for question in examples["question"] for _ in range(num_choices)]
        choices = [choice for row in examples["choices"] for choice in row]
        tokens = tokenized(tokenizer, questions, choices, max_length=self.spec.max_length)
        labels = torch.tensor([-100 if label is None else label for label in examples["label"]])
        return EncodedSplit.of(tokenizer, tokens, {"labels": labels}, choices=num_choices)

    def judged(self, encoded: EncodedSplit, outputs: Answers) -> Judgement:
        logits_NC = torch.empty(len(encoded), self.num_choices)
        for rows, features in outputs:
            logits = features[LOGITS]
            if logits.shape != (len(rows), self.num_choices):
                raise OutputError(f"the model gave logits of {tuple(logits.shape)} for {len(rows)} rows of "
                                  f"{self.num_choices} choices; load it with the task's load_model")
            logits_NC[rows] = logits
        answers_N = logits_NC.argmax(dim=-1)
        return Judgement(lambda: {"accuracy": accuracy(answers_N, encoded.rows["labels"])}, answers_N.numpy(),
                         lambda: _said(logits_NC, answers_N))


def _said(logits_NC: Tensor, answers_N: Tensor) -> list[Said]:
    shares_NC = logits_NC.double().softmax(dim=-1).tolist()
    return [{"choice": answer, "confidence": share(shares_C[answer]), "probabilities": list(map(share, shares_C))}
            for answer, shares_C in zip(answers_N.tolist(), shares_NC, strict=True)]


def _whole(value: Any) -> int | None:
    """A whole number, also one written as text or as 1.0; None for anything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None
