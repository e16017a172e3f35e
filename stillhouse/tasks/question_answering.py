"""Extractive question answering: the answer to a question is a stretch of a given text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase
from typing_extensions import Self

from stillhouse.adaptors import HuggingFaceAdaptor
from stillhouse.errors import OutputError
from stillhouse.metrics import cmrc_metrics, squad_metrics
from stillhouse.sections.values import Count
from stillhouse.tasks.answering import Answers
from stillhouse.tasks.base import DataSpec, Examples, Task, TextColumns
from stillhouse.tasks.batching import EncodedSplit
from stillhouse.tasks.best_span import best_spans
from stillhouse.tasks.columns import texts
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.said import number
from stillhouse.tasks.squad_rows import flattened, gold_answers
from stillhouse.tasks.windows import Span, Windows, cut, located
from stillhouse.types import LOGITS, Features, Key

_END = Key("logits", 1)


class QuestionAnsweringData(DataSpec):
    """The data of extractive question answering, as SQuAD has it on the hub; SQuAD's own JSON files are read too."""

    question: str = "question"
    """The column with the question."""
    context: str = "context"
    """The column with the text that holds the answer."""
    answers: str = "answers"
    """The column with the right answers: ``{"text": [...], "answer_start": [...]}``, the start counted in characters.
    Training takes the first. Only training data need ``answer_start``."""
    max_length: Annotated[int, Field(ge=2)] = 384
    """Tokens a row, question and special tokens included; a longer context becomes several rows."""
    stride: Annotated[int, Field(ge=0)] = 128
    """Tokens that neighbouring rows of one context share, so that one of them holds the whole of a short answer."""
    max_question_length: Count = 64
    """Tokens of the question; what is longer is cut."""
    max_answer_length: Count = 30
    """The longest answer that a model may give, in tokens."""
    no_answer: bool = False
    """Whether some questions have no answer (an empty list), as in SQuAD 2.0; then a model may answer nothing."""
    language: Literal["en", "zh"] = "en"
    """How answers are compared: en: by words, as SQuAD does; zh: by characters, as CMRC 2018 does."""

    # The last three decide which checkpoint of a teacher is the best, and so which teacher it is.
    decides: ClassVar[tuple[str, ...]] = ("max_length", "stride", "max_question_length", "max_answer_length",
                                          "no_answer", "language")
    name_columns = ("question", "context", "answers")

    @model_validator(mode="after")
    def _has_a_score(self) -> Self:
        if self.no_answer and self.language == "zh":
            raise ValueError("no_answer: CMRC's way to compare answers has no score for questions without one; leave "
                             "no_answer out, or set language to en")
        return self


@final
@dataclass(frozen=True, eq=False)
class _Asked:
    """What turns the logits of windows into answers to questions."""

    windows: Windows
    contexts: Sequence[str]
    answers: Sequence[Sequence[str] | None]
    """The right ones; None if nobody knows them."""


@final
class QuestionAnswering(Task[QuestionAnsweringData]):
    """Exact match and F1 of the answers, 0 to 1.

    Rows of an encoded split are windows of a context, each after its question. An answer is the span with the highest
    sum of start and end logits, of at most ``max_answer_length`` tokens, over all windows of the question. With
    ``no_answer`` it is empty if the class token's sum is higher, in the window where that is lowest. What is said of an
    example: ``answer``, and its sum as ``score``.
    """

    name = "question-answering"
    data = QuestionAnsweringData
    auto_class = AutoModelForQuestionAnswering
    head = "ForQuestionAnswering"
    predicts = "spans"
    metric = "f1"
    num_heads = 2
    text_columns: ClassVar[TextColumns] = {"question": "text", "context": "kept"}
    label_columns = ("answers",)
    reads = frozenset({LOGITS, _END})

    def examples(self, rows: Rows, split: str) -> Examples:
        spec = self.spec
        rows = flattened(rows)
        inputs = self.read_inputs(rows)
        answers = gold_answers(rows, spec.answers, inputs["context"], may_be_none=spec.no_answer,
                               need_starts=split == "train")
        return Examples({**inputs, "answers": answers})

    def read_inputs(self, rows: Rows) -> dict[str, Sequence[Any]]:
        rows = flattened(rows)
        return {"question": texts(rows, self.spec.question), "context": texts(rows, self.spec.context)}

    def gold(self, examples: Examples) -> list[list[str] | None]:
        return [None if answer is None else list(answer["text"]) for answer in examples["answers"]]

    def adaptor(self) -> HuggingFaceAdaptor:
        return HuggingFaceAdaptor(self.predicts)

    def encoded(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        spec, contexts, answers = self.spec, examples["context"], examples["answers"]
        windows = cut(tokenizer, examples["question"], contexts, max_length=spec.max_length, stride=spec.stride,
                      max_question_length=spec.max_question_length)
        spans = [_first_span(answer) for answer in answers]
        positions = located(windows, spans)
        _warn_of_cut_answers(windows, spans, positions, spec)
        return EncodedSplit.of(tokenizer, windows.tokens,
                               {"start_positions": positions[:, 0], "end_positions": positions[:, 1]},
                               details=_Asked(windows, contexts, self.gold(examples)))

    def judged(self, encoded: EncodedSplit, outputs: Answers) -> Judgement:
        answers, scores = self._answers(encoded, outputs)
        return Judgement(lambda: self._metrics(answers, encoded.details.answers), np.array(answers), lambda: [
            {"answer": answer, "score": number(score)} for answer, score in zip(answers, scores, strict=True)])

    def _metrics(self, answers: Sequence[str], right: Sequence[Sequence[str] | None]) -> dict[str, float]:
        known = [(said, wanted) for said, wanted in zip(answers, right, strict=True) if wanted is not None]
        metrics = {"en": squad_metrics, "zh": cmrc_metrics}[self.spec.language]
        return metrics([said for said, _ in known], [wanted for _, wanted in known])

    def _answers(self, encoded: EncodedSplit, outputs: Answers) -> tuple[list[str], list[float]]:
        """The answer to each question, empty for none, and its score.

        Raises `OutputError` unless there is a start and an end logit for each token.
        """
        asked: _Asked = encoded.details
        windows = asked.windows
        scores, nothing = np.empty(len(windows)), np.empty(len(windows))
        spans = np.zeros((len(windows), 2), dtype=np.int64)
        for rows, features in outputs:
            _require_logits(features, rows, int(encoded.lengths[rows].max()))
            scores[rows], spans[rows], nothing[rows] = _judged_windows(windows, rows, features,
                                                                       self.spec.max_answer_length)
        order = np.lexsort((-scores, windows.questions))
        _, first = np.unique(windows.questions[order], return_index=True)
        best = order[first]
        lowest = np.full(len(best), np.inf)
        np.minimum.at(lowest, windows.questions, nothing)
        empty = np.isneginf(scores[best]) | (self.spec.no_answer & (lowest > scores[best]))
        answers = ["" if none else context[begin:end].strip()
                   for none, context, (begin, end) in zip(empty, asked.contexts, spans[best].tolist(), strict=True)]
        return answers, np.where(empty, lowest, scores[best]).tolist()


def _first_span(answer: dict[str, Any] | None) -> Span | None:
    """The characters of the first answer without spaces around it; empty for no answer, None if nobody knows it."""
    if answer is None or answer["answer_start"] is None:
        return None
    if not answer["text"]:
        return 0, 0
    text, start = answer["text"][0], answer["answer_start"][0]
    begin = start + len(text) - len(text.lstrip())
    return begin, begin + len(text.strip())


def _warn_of_cut_answers(windows: Windows, spans: Sequence[Span | None], positions: Tensor,
                         spec: QuestionAnsweringData) -> None:
    """Say how many answers no window holds as a whole, so that every window of them says that there is none."""
    asked = np.array([span is not None and span[0] < span[1] for span in spans], dtype=bool)
    held = np.zeros(len(spans), dtype=bool)
    held[windows.questions[positions[:, 0].numpy() != windows.no_answer]] = True
    num_cut = int((asked & ~held).sum())
    if num_cut:
        warnings.warn(f"{num_cut} of {int(asked.sum())} answers are cut by every row of their context, so that these "
                      "questions are learnt as if they had no answer; raise data.stride to the tokens of the longest "
                      f"answer (it is {spec.stride}), or data.max_length (it is {spec.max_length})", stacklevel=4)


def _judged_windows(windows: Windows, rows: Sequence[int], features: Features,
                    max_answer_length: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Of each window the best span's score, (B,), and characters, (B, 2), and the score of no answer, (B,)."""
    start_BL, end_BL = (features[key].double().numpy() for key in (LOGITS, _END))
    offsets = [windows.offsets[row] for row in rows]
    first_B1 = windows.first[rows][:, None]
    after_B1 = first_B1 + np.array([len(part) for part in offsets])[:, None]
    places = np.arange(start_BL.shape[1])
    inside_BL = (first_B1 <= places) & (places < after_B1)
    scores, starts, ends = best_spans(np.where(inside_BL, start_BL, -np.inf), np.where(inside_BL, end_BL, -np.inf),
                                      max_answer_length)
    spans = np.zeros((len(rows), 2), dtype=np.int64)
    for row in np.flatnonzero(~np.isneginf(scores)):
        begin, end = starts[row] - first_B1[row, 0], ends[row] - first_B1[row, 0]
        spans[row] = offsets[row][begin, 0], offsets[row][end, 1]
    batch, no_answer = np.arange(len(rows)), windows.no_answer[rows]
    return scores, spans, start_BL[batch, no_answer] + end_BL[batch, no_answer]


def _require_logits(features: Features, rows: Sequence[int], length: int) -> None:
    for key in (LOGITS, _END):
        if features[key].shape != (len(rows), length):
            raise OutputError(f"the model gave {key} of {tuple(features[key].shape)} for {len(rows)} rows of {length} "
                              "tokens; there must be one a token, where an answer starts and where it ends")
