"""How good a run's teacher is, whatever stands behind it."""

from __future__ import annotations

from stillhouse.recipe.prepare import Prepared
from stillhouse.tasks import EncodedSplit, Judgement
from stillhouse.tasks.answering import source_answers
from stillhouse.teachers import TeacherSource

_BATCH_SIZE = 64


def judged_teacher(prepared: Prepared, source: TeacherSource, split: str) -> Judgement | None:
    """The teacher's answers to a split; None where it has something to say of a part of it only.

    Raises what the teacher raises.
    """
    task, reading = prepared.task, prepared.distilling.reading
    rows, mine = reading.teacher[split], reading.student[split]
    if not prepared.teaching.answers_all(mine):
        return None
    return task.judged(rows if isinstance(rows, EncodedSplit) else mine,
                       source_answers(source, rows, task.reads, batch_size=_BATCH_SIZE))
