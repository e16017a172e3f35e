"""How often teacher and student agree, who is right, and the rows where they differ most remarkably."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.report.answers import AnswerKind
from stillhouse.report.run_files import Line

LONGEST_TEXT = 400
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Agreement:
    """Counts of rows. Who is right is counted over rows with a label."""

    rows: int
    same: int
    labelled: int
    both_right: int
    only_teacher: int
    only_student: int
    both_wrong: int


@dataclass(frozen=True)
class Word:
    """A word of a sentence; ``note`` says what the models and the label say where the models differ, else empty."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Disagreement:
    """A row whose answers differ. Confidences are texts, empty where there are none; so is an unknown label."""

    row: int
    """Counted from 0, as in ``predictions.jsonl``."""
    texts: tuple[tuple[str, str], ...]
    """Name and text of each input, cut."""
    words: tuple[Word, ...]
    """Of a sentence of words, instead of texts."""
    gold: str
    teacher: str
    student: str
    teacher_confidence: str
    student_confidence: str
    verdict: str
    """Who is right: ``teacher``, ``student``, ``neither``; empty if that is not known."""


def agreement(lines: Sequence[Line], kind: AnswerKind) -> Agreement | None:
    """Counted over the rows that a teacher answered; None if there are none."""
    asked = [line for line in lines if line.get("teacher") is not None]
    if not asked:
        return None
    verdicts = Counter((kind.right(line["teacher"], line["label"]), kind.right(line["student"], line["label"]))
                       for line in asked if line.get("label") is not None)
    return Agreement(len(asked), sum(kind.same(line["teacher"], line["student"]) for line in asked),
                     sum(verdicts.values()), verdicts[True, True], verdicts[True, False], verdicts[False, True],
                     verdicts[False, False])


def hardest(lines: Sequence[Line], kind: AnswerKind, limit: int) -> list[Disagreement]:
    """The rows on which teacher and student differ, those with the largest `AnswerKind.gap` first."""
    found = [line for line in lines
             if line.get("teacher") is not None and not kind.same(line["teacher"], line["student"])]
    found.sort(key=lambda line: -kind.gap(line["teacher"], line["student"]))
    return [_disagreement(line, kind) for line in found[:limit]]


def cut(text: str, length: int = LONGEST_TEXT) -> str:
    """The text, or its beginning up to a space near the end and an ellipsis."""
    if len(text) <= length:
        return text
    kept = text[:length]
    at_space = kept.rfind(" ", length - 40)
    return f"{kept[:at_space] if at_space > 0 else kept} …"


def _disagreement(line: Line, kind: AnswerKind) -> Disagreement:
    teacher, student, gold = line["teacher"], line["student"], line.get("label")
    words = _words(line)
    return Disagreement(
        int(line.get("row", 0)), () if words else _texts(line.get("inputs") or {}), words,
        "" if gold is None else cut(kind.gold_told(gold)), cut(kind.told(teacher)), cut(kind.told(student)),
        _percent(kind.confidence(teacher)), _percent(kind.confidence(student)),
        "" if gold is None else _verdict(kind.right(teacher, gold), kind.right(student, gold)))


def _verdict(teacher: bool, student: bool) -> str:
    return "teacher" if teacher else "student" if student else "neither"


def _percent(confidence: float | None) -> str:
    return "" if confidence is None else f"{100 * confidence:.0f} %"


def _texts(inputs: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = []
    for name, value in inputs.items():
        if isinstance(value, (list, tuple)):
            found += [(f"{name.removesuffix('s')} {i}", cut(str(part))) for i, part in enumerate(value, start=1)]
        elif value is not None:
            found.append((name, cut(str(value))))
    return tuple(found)


def _words(line: Line) -> tuple[Word, ...]:
    """The words around the first on which the models differ, of a row of words with tags."""
    words = (line.get("inputs") or {}).get("words")
    teacher, student = line["teacher"].get("tags"), line["student"].get("tags")
    if not words or teacher is None or student is None:
        return ()
    gold = line.get("label") or [None] * len(words)
    notes = [
        "" if tag_T == tag_S else f"teacher {tag_T}, student {tag_S}" + ("" if right is None else f", label {right}")
        for tag_T, tag_S, right in zip(teacher, student, gold, strict=True)]
    first = next((i for i, note in enumerate(notes) if note), 0)
    start = max(0, first - 30)
    shown = [Word(str(word), note) for word, note in zip(words, notes, strict=True)][start:start + 60]
    return (*([Word("…")] if start else []), *shown, *([Word("…")] if start + 60 < len(words) else []))
