"""What teacher and student say of every example of a run's reported split, as the lines of ``predictions.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from stillhouse.tasks import Judgement, Task


def prediction_lines(task: Task[Any], split: str, student: Judgement, teacher: Judgement | None) -> Iterator[str]:
    """A line of JSON for each example, in order; none in a task that has no words for what a model says.

    A line holds the example's number as ``row``, its ``inputs``, what is right as ``label`` (None if nobody knows), and
    what was said of it by ``teacher`` (None where it was not asked) and ``student``; each task says in which words.
    """
    if task.unsaid:
        return
    examples = task.split(split)
    taught = [None] * len(examples) if teacher is None else teacher.said
    rows = zip(task.inputs(examples), task.gold(examples), taught, student.said, strict=True)
    for row, (inputs, label, theirs, ours) in enumerate(rows):
        yield json.dumps({"row": row, "inputs": inputs, "label": label, "teacher": theirs, "student": ours},
                         ensure_ascii=False)
