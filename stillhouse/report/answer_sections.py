"""What is told of a run's answers, row by row: agreement, calibration, classes, confusion, disagreements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
from stillhouse.report.calibration import Calibration, calibration
from stillhouse.report.charts import reliability, scores
from stillhouse.report.classes import ClassScore, class_scores
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
        ("classes", "Entities" if _has_entities(run, names) else "Classes", _classes(run, kind, lines, names)),
        ("confusion", "Confusion", _confusions(run, choices, names) if kind.has_classes else []),
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
    judged = [choice for choice in choices if choice.gold is not None and choice.student_confidence > 0]
    if not choices:
        return []
    if not judged:
        return [Text("Without labels nobody knows how often a confident answer is right.")]
    found = {"student": calibration([c.student_confidence for c in judged], [c.student == c.gold for c in judged])}
    asked = [(c, c.teacher_confidence) for c in judged if c.teacher_confidence]  # 0: a word that is not seen
    if asked:
        found = {"teacher": calibration([sure for _, sure in asked], [c.teacher == c.gold for c, _ in asked]), **found}
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


def _has_entities(run: RunFiles, names: Sequence[str]) -> bool:
    if run.task != "token-classification":
        return False
    from stillhouse.report.entities import is_chunked

    tags = {str(tag) for line in run.predictions for tag in (line.get("label") or line["student"]["tags"])}
    return is_chunked({*names, *tags})


def _classes(run: RunFiles, kind: AnswerKind, lines: Sequence[Line], names: Sequence[str]) -> list[Block]:
    judged = [line for line in lines if line.get("label") is not None]
    if not kind.has_classes or not judged:
        return []
    asked = [line for line in judged if line.get("teacher") is not None]
    students = _scored(run, judged, "student", names)
    teachers = _scored(run, asked, "teacher", names) if asked else []
    return [_class_table("entity" if _has_entities(run, names) else "class", students, teachers)]


def _scored(run: RunFiles, lines: Sequence[Line], who: str, names: Sequence[str]) -> list[ClassScore]:
    if run.task == "token-classification":
        gold, said = [line["label"] for line in lines], [line[who]["tags"] for line in lines]
        if _has_entities(run, names):
            from stillhouse.report.entities import entity_scores

            return entity_scores(gold, said)
        flat = [([str(tag)], [str(other)]) for tags, others in zip(gold, said, strict=True)
                for tag, other in zip(tags, others, strict=True)]
    elif "labels" in lines[0][who]:
        flat = [([str(name) for name in line["label"]], [str(name) for name in line[who]["labels"]]) for line in lines]
    else:
        flat = [([str(line["label"])], [str(line[who]["label"])]) for line in lines]
    seen = {name for pair in flat for labels in pair for name in labels}
    every = [*(name for name in names if name in seen), *sorted(seen - set(names))]
    return class_scores([gold for gold, _ in flat], [said for _, said in flat], every)


def _class_table(what: str, students: Sequence[ClassScore], teachers: Sequence[ClassScore]) -> Table:
    """A row a class, those that lost most against the teacher first (without a teacher: the worst first)."""
    of_teacher = {one.name: one for one in teachers}
    rows = []
    for one in sorted(students, key=lambda s: s.f1 - (of_teacher[s.name].f1 if s.name in of_teacher else 0.0)):
        other = of_teacher.get(one.name)
        own = [f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}"]
        cells: list[str | Cell] = [one.name, count(one.count), *own]
        if teachers:
            lost = None if other is None else one.f1 - other.f1
            cells += ["" if other is None else f"{other.f1:.3f}",
                      "" if lost is None else Cell(f"{lost:+.3f}".replace("-", "−"), "good" if lost > 0.005 else
                                                   "bad" if lost < -0.005 else "")]
        rows.append(cells)
    columns = [what, "labels", "precision", "recall", "F1", *(["teacher's F1", "difference"] if teachers else [])]
    return Table(f"The student by {what}", columns, rows, is_long=len(rows) > 20)


def _confusions(run: RunFiles, choices: Sequence[Choice], names: Sequence[str]) -> list[Block]:
    tell: Callable[[str], str] = str
    if run.task == "token-classification":
        from stillhouse.report.entities import type_of as tell

        names = list(dict.fromkeys(map(tell, names)))
    found = {
        "teacher": [(tell(c.teacher), tell(c.student)) for c in choices if c.teacher is not None],
        "label": [(tell(c.gold), tell(c.student)) for c in choices if c.gold is not None],
    }
    counted = {who: confusion(pairs, names) for who, pairs in found.items() if pairs}
    if not counted:
        return []
    if max(len(one.names) for one in counted.values()) <= MOST_NAMES_IN_A_MATRIX:
        return [Matrices([Matrix(f"Student against {who}", who, one) for who, one in counted.items()]),
                Text("Each row adds up to 100 %; what is not on the diagonal is confused.")]
    return [_most_confused(who, one) for who, one in counted.items()]


def _most_confused(who: str, found: Confusion) -> Table:
    rows = [[pair.reference, pair.student, count(pair.count), percent(pair.share)]
            for pair in found.most_confused(_MOST_PAIRS)]
    return Table(f"Most confused: student against {who}", [who, "student", "rows", f"of the {who}'s"], rows,
                 num_names=2)


def _hardest(lines: Sequence[Line], kind: AnswerKind) -> list[Block]:
    found = hardest(lines, kind, _MOST_ROWS)
    if not found:
        return []
    return [Text(f"Where student and teacher differ, {kind.hardest_first}."), Differences(found)]


