"""What models answer in each task: when two answers are the same, which is right, and how they are told.

Values are those of ``predictions.jsonl``: what a model *said* is a mapping, *gold* is a name, a list or a number.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from stillhouse.report.classes import ClassScore, class_scores
from stillhouse.report.formatting import measure
from stillhouse.report.run_files import Line, RunFiles

Said = Mapping[str, Any]

NOTHING = "(nothing)"

_Measure = Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]


@dataclass(frozen=True)
class Choice:
    """One thing that models chose: the right one if that is known, and what each chose with which confidence."""

    gold: str | None
    teacher: str | None
    teacher_confidence: float | None
    student: str
    student_confidence: float


class AnswerKind(abc.ABC):
    """The answers of a task. Abstract: the final classes below are one for each kind."""

    of_what: ClassVar[str] = "rows"
    has_classes: ClassVar[bool] = False
    """Whether answers are names from a list, so that they can be counted by class."""
    of_choices: ClassVar[str] = "rows"
    """What `choices` are made about, for people."""
    class_name: ClassVar[str] = "class"
    """What a class is, for people."""
    classes_title: ClassVar[str] = "Classes"
    """The title above them."""
    hardest_first: ClassVar[str] = "the largest difference first"
    """The order of `gap`, for people."""
    is_number: ClassVar[bool] = False
    """Whether answers are numbers, which are near or far instead of the same or not."""

    @abc.abstractmethod
    def same(self, one: Said, other: Said) -> bool:
        """Whether two models answered alike."""

    @abc.abstractmethod
    def right(self, said: Said, gold: Any) -> bool:
        """Whether an answer is right."""

    @abc.abstractmethod
    def told(self, said: Said) -> str:
        """The answer for people."""

    @abc.abstractmethod
    def gold_told(self, gold: Any) -> str:
        """The label for people."""

    @abc.abstractmethod
    def gap(self, teacher: Said, student: Said) -> float:
        """How remarkable it is that these differ; larger is more."""

    @abc.abstractmethod
    def confidence(self, said: Said) -> float | None:
        """How sure the model says it is, 0 to 1; None if it does not say."""

    @abc.abstractmethod
    def choices(self, line: Line) -> Iterator[Choice]:
        """The choices of one from a list in a row's answers, for calibration and confusion; none of other answers."""

    @abc.abstractmethod
    def class_scores(self, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
        """How well a model, ``student`` or ``teacher``, finds each class in rows with a label that it answered.

        ``names`` are the classes in their order, as far as they are known. Without classes there are none.
        """

    @abc.abstractmethod
    def type_of(self, name: str) -> str:
        """What a name counts as in the confusion: the type of an entity's tag, else the name itself."""


class _OneChoice(AnswerKind):
    """``{KEY: ONE OF A LIST, "confidence": P}``. Abstract: the final classes say which key and how it is told."""

    key: ClassVar[str]
    hardest_first = "those that both are sure of first"

    def same(self, one: Said, other: Said) -> bool:
        return bool(one[self.key] == other[self.key])

    def right(self, said: Said, gold: Any) -> bool:
        return bool(said[self.key] == gold)

    def told(self, said: Said) -> str:
        return self.gold_told(said[self.key])

    def gap(self, teacher: Said, student: Said) -> float:
        return float(teacher["confidence"]) * float(student["confidence"])

    def confidence(self, said: Said) -> float | None:
        return float(said["confidence"])

    def choices(self, line: Line) -> Iterator[Choice]:
        student, teacher, gold = line["student"], line.get("teacher"), line.get("label")
        yield Choice(
            None if gold is None else str(gold), None if teacher is None else str(teacher[self.key]),
            None if teacher is None else float(teacher["confidence"]), str(student[self.key]),
            float(student["confidence"]))

    def type_of(self, name: str) -> str:
        return name


@final
class SingleLabel(_OneChoice):
    """``{"label": NAME, "confidence": P}``."""

    key = "label"
    has_classes = True

    def gold_told(self, gold: Any) -> str:
        return str(gold)

    def class_scores(self, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
        return _scores([([line["label"]], [line[who]["label"]]) for line in lines], names)


@final
class OneOfSeveral(_OneChoice):
    """``{"choice": NUMBER, "confidence": P}`` of a multiple choice; files count from 0, people from 1."""

    key = "choice"
    of_what = "questions"

    def gold_told(self, gold: Any) -> str:
        return f"choice {int(gold) + 1}"

    def class_scores(self, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
        return []


class _WithoutChoices(AnswerKind):
    """Answers that are no choice of one from a list. Abstract."""

    def confidence(self, said: Said) -> float | None:
        return None

    def choices(self, line: Line) -> Iterator[Choice]:
        yield from ()

    def type_of(self, name: str) -> str:
        return name


@final
class LabelSet(_WithoutChoices):
    """``{"labels": [NAME, ...], "probabilities": {NAME: P}}``: any number of labels a row."""

    has_classes = True

    def same(self, one: Said, other: Said) -> bool:
        return set(one["labels"]) == set(other["labels"])

    def right(self, said: Said, gold: Any) -> bool:
        return set(said["labels"]) == set(gold)

    def told(self, said: Said) -> str:
        return self.gold_told(said["labels"])

    def gold_told(self, gold: Any) -> str:
        return ", ".join(map(str, gold)) or NOTHING

    def gap(self, teacher: Said, student: Said) -> float:
        different = set(teacher["labels"]) ^ set(student["labels"])
        teachers, students = teacher.get("probabilities", {}), student.get("probabilities", {})
        return float(sum(abs(teachers.get(name, 0.0) - students.get(name, 0.0)) for name in different))

    def class_scores(self, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
        return _scores([(line["label"], line[who]["labels"]) for line in lines], names)


@final
class Score(_WithoutChoices):
    """``{"score": NUMBER}``: of a regression, or the cosine of a pair's embeddings."""

    is_number = True

    def same(self, one: Said, other: Said) -> bool:
        return math.isclose(one["score"], other["score"])

    def right(self, said: Said, gold: Any) -> bool:
        return math.isclose(said["score"], gold)

    def told(self, said: Said) -> str:
        return measure(float(said["score"]))

    def gold_told(self, gold: Any) -> str:
        return measure(float(gold))

    def gap(self, teacher: Said, student: Said) -> float:
        return abs(float(teacher["score"]) - float(student["score"]))

    def class_scores(self, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
        return []


@final
class Span(_WithoutChoices):
    """``{"answer": TEXT}`` of a question; the label is a list of right answers, empty if there is none.

    Answers are compared as the task's measure does, in the given language (see `stillhouse.metrics`).
    """

    of_what = "questions"

    def __init__(self, language: str) -> None:
        from stillhouse.metrics.question_answering import cmrc_metrics, squad_metrics  # they need torch

        self._measure: _Measure = cmrc_metrics if language == "zh" else squad_metrics

    def same(self, one: Said, other: Said) -> bool:
        return self.right(one, [other["answer"]])

    def right(self, said: Said, gold: Any) -> bool:
        return self._score(said, gold, "exact_match") == 1

    def told(self, said: Said) -> str:
        return str(said["answer"]) or NOTHING

    def gold_told(self, gold: Any) -> str:
        return " / ".join(dict.fromkeys(map(str, gold))) or NOTHING

    def gap(self, teacher: Said, student: Said) -> float:
        return 1 - self._score(student, [teacher["answer"]], "f1")

    def class_scores(self, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
        return []

    def _score(self, said: Said, gold: Sequence[str], name: str) -> float:
        return float(self._measure([said["answer"]], [list(gold)])[name])


class _OneAWord(AnswerKind):
    """``{"tags": [NAME, ...], "confidence": [P, ...]}``, one a word. A choice is that of one word.

    Abstract: the final classes say what tags stand for.
    """

    of_what, of_choices = "sentences", "words"
    has_classes = True
    hardest_first = "those with many words on which both are sure first"

    def same(self, one: Said, other: Said) -> bool:
        return list(one["tags"]) == list(other["tags"])

    def right(self, said: Said, gold: Any) -> bool:
        return list(said["tags"]) == list(gold)

    def told(self, said: Said) -> str:
        return " ".join(said["tags"])

    def gold_told(self, gold: Any) -> str:
        return " ".join(gold)

    def gap(self, teacher: Said, student: Said) -> float:
        sides = zip(teacher["tags"], student["tags"], teacher["confidence"], student["confidence"], strict=True)
        return float(sum(sure_T * sure_S for tag_T, tag_S, sure_T, sure_S in sides if tag_T != tag_S))

    def confidence(self, said: Said) -> float | None:
        return None

    def choices(self, line: Line) -> Iterator[Choice]:
        student, teacher, gold = line["student"], line.get("teacher"), line.get("label")
        for i, tag in enumerate(student["tags"]):
            yield Choice(
                None if gold is None else str(gold[i]), None if teacher is None else str(teacher["tags"][i]),
                None if teacher is None else float(teacher["confidence"][i]), str(tag),
                float(student["confidence"][i]))


@final
class Tags(_OneAWord):
    """Tags that stand for themselves, such as parts of speech."""

    def class_scores(self, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
        return _scores([([tag], [other]) for line in lines
                        for tag, other in zip(line["label"], line[who]["tags"], strict=True)], names)

    def type_of(self, name: str) -> str:
        return name


@final
class EntityTags(_OneAWord):
    """Tags that mark entities of one word or more, such as ``B-PER`` (see `stillhouse.metrics.is_chunked`)."""

    class_name, classes_title = "entity", "Entities"

    def class_scores(self, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
        from stillhouse.report.entities import entity_scores  # it needs torch

        return entity_scores([line["label"] for line in lines], [line[who]["tags"] for line in lines])

    def type_of(self, name: str) -> str:
        from stillhouse.report.entities import type_of

        return type_of(name)


def kind_of_answers(run: RunFiles) -> AnswerKind | None:
    """The kind of a run's answers; None for a task whose answers are not kept, such as masked-lm.

    Raises `DataError` if the answers of a tagger, which tell what its tags stand for, cannot be read.
    """
    if run.task == "question-answering":
        return Span(str(run.data.get("language", "en")))
    if run.task == "token-classification":
        return EntityTags() if _has_entities(run) else Tags()
    kinds: dict[str, AnswerKind] = {
        "text-classification": {"multi": LabelSet(), "regression": Score()}.get(
            str(run.data.get("labels", "single")), SingleLabel()),
        "multiple-choice": OneOfSeveral(), "sentence-embedding": Score(),
    }
    return kinds.get(run.task)


def _has_entities(run: RunFiles) -> bool:
    from stillhouse.report.entities import is_chunked

    tags = {str(tag) for line in run.predictions for tag in (line.get("label") or line["student"]["tags"])}
    return is_chunked({*map(str, run.metrics.get("label_names") or ()), *tags})


def _scores(pairs: Sequence[tuple[Sequence[Any], Sequence[Any]]], names: Sequence[str]) -> list[ClassScore]:
    """A score for each name that occurs in pairs of gold and said labels: first those listed, then others, sorted."""
    gold, said = ([[str(label) for label in pair[i]] for pair in pairs] for i in (0, 1))
    seen = {label for labels in (*gold, *said) for label in labels}
    return class_scores(gold, said, [*(name for name in names if name in seen), *sorted(seen - set(names))])
