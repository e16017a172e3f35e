"""What is told of a run's answers, row by row: agreement, calibration, classes, confusion, disagreements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stillhouse.report import svg
from stillhouse.report.answers import AnswerKind, Choice, kind_of_answers
from stillhouse.report.blocks import (
    Block,
    Cell,
    Charts,
    Differences,
    Matrices,
    Matrix,
    Part,
    Parts,
    Table,
    Text,
)
from stillhouse.report.calibration import Calibration, student_calibration, teacher_calibration
from stillhouse.report.charts import reliability, scores
from stillhouse.report.classes import ClassScore
from stillhouse.report.confusion import Confusion, confusion
from stillhouse.report.disagreements import agreement, hardest
from stillhouse.report.formatting import as_many, count, percent
from stillhouse.report.run_files import Line, RunFiles

Titled = tuple[str, str, list[Block]]
"""Name, title and blocks of a section; no blocks, no section."""

MOST_NAMES_IN_A_MATRIX = 12
_MOST_PAIRS, _MOST_ROWS = 20, 15
_NO_ANSWERS = ("What the models said of each row was not kept (predictions.jsonl), so agreement, calibration, classes "
               "and disagreements cannot be shown.")


def answer_sections(run: RunFiles) -> list[Titled]:
    """The sections that a run's answers allow. Raises `DataError` if they cannot be read."""
    kind = kind_of_answers(run)
    if kind is None:
        return []
    lines = run.predictions
    if not lines:
        return [("answers", "Answers", [Text(_NO_ANSWERS)])]
    choices = [choice for line in lines for choice in kind.choices(line)]
    names = [str(name) for name in run.metrics.get("label_names") or ()]
    return [
        ("agreement", "Agreement with the teacher", _scatter(lines) if kind.is_number else _agreement(lines, kind)),
        ("calibration", "Calibration", _calibrations(choices)),
        ("classes", kind.classes_title, _classes(kind, lines, names)),
        ("confusion", "Confusion", _confusions(kind, choices, names) if kind.has_classes else []),
        ("disagreements", "Hardest disagreements", _hardest(lines, kind)),
    ]


def _agreement(lines: Sequence[Line], kind: AnswerKind) -> list[Block]:
    found = agreement(lines, kind)
    if found is None:
        return [Text("The teacher was not asked about these rows.")]
    told = f"Teacher and student give the same answer to {count(found.same)} of {as_many(found.rows, kind.of_what)} " \
           f"({percent(found.same / found.rows)})."
    if not found.labelled:
        return [Text(f"{told} None of them has a label, so nobody knows who is right.")]
    parts = [("both are right", found.both_right, "good"), ("only the teacher is right", found.only_teacher, "teacher"),
             ("only the student is right", found.only_student, "student"), ("both are wrong", found.both_wrong, "bad")]
    return [Text(told), Parts("Who is right", [
        Part(name, number, number / found.labelled, tone) for name, number, tone in parts])]


def _scatter(lines: Sequence[Line]) -> list[Block]:
    """Scores against each other: the student's against the teacher's and against the label."""
    charts = []
    for name, title, color in (("teacher", "Student against teacher", svg.TEACHER),
                               ("label", "Student against label", svg.STUDENT)):
        known = [line for line in lines if line.get(name) is not None]
        pairs = [(float(line[name]["score"] if name == "teacher" else line[name]), float(line["student"]["score"]))
                 for line in known]
        kept = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
        if kept:
            charts.append(scores(title, kept, f"{name}'s score" if name == "teacher" else name, "student's score",
                                 color))
    return [Charts(charts)] if charts else [Text("There is nothing to compare the student's scores with.")]


def _calibrations(choices: Sequence[Choice]) -> list[Block]:
    if not choices:
        return []
    both = {"teacher": teacher_calibration(choices), "student": student_calibration(choices)}
    found = {name: one for name, one in both.items() if one is not None}
    if not found:
        return [Text("Without labels nobody knows how often a confident answer is right.")]
    charts = [reliability(f"Reliability of the {name}, ECE {one.ece:.3f}", name, one) for name, one in found.items()]
    rows = [[name, f"{one.ece:.4f}", percent(one.confidence), percent(one.accuracy), _surety(one)]
            for name, one in found.items()]
    return [Charts(charts),
            Table("Expected calibration error, 15 bins of equal width (Guo et al. 2017)",
                  ["", "ECE", "mean confidence", "right", "says it is sure"], rows),
            Text("A calibrated model's bars end on the dashed line; pale bars stand for few answers.")]


def _surety(one: Calibration) -> str:
    gap = one.confidence - one.accuracy
    return "as often as it is right" if abs(gap) < 0.01 else "too often" if gap > 0 else "too rarely"


def _classes(kind: AnswerKind, lines: Sequence[Line], names: Sequence[str]) -> list[Block]:
    judged = [line for line in lines if line.get("label") is not None]
    if not kind.has_classes or not judged:
        return []
    asked = [line for line in judged if line.get("teacher") is not None]
    return [_class_table(kind.class_name, kind.class_scores(judged, "student", names),
                         kind.class_scores(asked, "teacher", names))]


def _class_table(what: str, students: Sequence[ClassScore], teachers: Sequence[ClassScore]) -> Table:
    """A row a class, those that lost most against the teacher first (without a teacher: the worst first)."""
    of_teacher = {one.name: one for one in teachers}
    rows = []
    for one in sorted(students, key=lambda s: s.f1 - (of_teacher[s.name].f1 if s.name in of_teacher else 0.0)):
        other = of_teacher.get(one.name)
        own = [f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}"]
        cells: list[str | Cell] = [one.name, count(one.count), *own]
        if teachers:
            cells += ["", ""] if other is None else [f"{other.f1:.3f}", _difference_told(one.f1 - other.f1)]
        rows.append(cells)
    columns = [what, "labels", "precision", "recall", "F1", *(["teacher's F1", "difference"] if teachers else [])]
    return Table(f"The student by {what}", columns, rows, is_long=len(rows) > 20)


def _difference_told(difference: float) -> Cell:
    tone = "good" if difference > 0.005 else "bad" if difference < -0.005 else ""
    return Cell(f"{difference:+.3f}".replace("-", "−"), tone)


def _confusions(kind: AnswerKind, choices: Sequence[Choice], names: Sequence[str]) -> list[Block]:
    tell = kind.type_of
    types = list(dict.fromkeys(map(tell, names)))
    found = {
        "teacher": [(tell(c.teacher), tell(c.student)) for c in choices if c.teacher is not None],
        "label": [(tell(c.gold), tell(c.student)) for c in choices if c.gold is not None],
    }
    counted = {who: confusion(pairs, types) for who, pairs in found.items() if pairs}
    if not counted:
        return []
    if max(len(one.names) for one in counted.values()) <= MOST_NAMES_IN_A_MATRIX:
        return [Matrices([Matrix(f"Student against {who}", who, one) for who, one in counted.items()]),
                Text("Each row adds up to 100 %; what is not on the diagonal is confused.")]
    return [_most_confused(who, one, kind.of_choices) for who, one in counted.items()]


def _most_confused(who: str, found: Confusion, of_what: str) -> Block:
    rows = [[pair.reference, pair.student, count(pair.count), percent(pair.share)]
            for pair in found.most_confused(_MOST_PAIRS)]
    if not rows:
        return Text(f"Student against {who}: nothing is confused, both say the same everywhere.")
    return Table(f"Most confused: student against {who}", [who, "student", of_what, f"of the {who}'s"], rows,
                 num_names=2)


def _hardest(lines: Sequence[Line], kind: AnswerKind) -> list[Block]:
    found = hardest(lines, kind, _MOST_ROWS)
    if not found:
        return []
    return [Text(f"Where student and teacher differ, {kind.hardest_first}."), Differences(found)]


