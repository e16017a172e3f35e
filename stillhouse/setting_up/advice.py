"""What people should know about their data before they train on it: rows, classes, and texts that come twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from stillhouse.tasks import Task
from stillhouse.tasks.repetitions import repetitions

_FEW_ROWS, _FEW_OF_A_CLASS, _MAJORITY = 200, 5, 0.9


def advice(task: Task[Any]) -> list[str]:
    """Lines about a task whose data is loaded; none where nothing is remarkable."""
    lines = list(_of_rows(task))
    if task.problem_type == "single_label_classification":
        lines += _of_classes(task)
    if task.name == "token-classification" and all(name.isdecimal() for name in task.label_names):
        lines.append("the tags are numbers, so that nobody knows which make an entity, and accuracy judges them; list "
                     "their names in data.label_names to have the F1 of entities")
    return [*lines, *repetitions(task)]


def _of_rows(task: Task[Any]) -> Iterator[str]:
    rows = task.num_rows["train"]
    if rows < _FEW_ROWS:
        yield (f"{_number(rows, 'training row')}: expect little, and results that change with the seed; unlabelled "
               "texts, which the teacher labels, can help (augmentation: {unlabelled: FILE})")


def _of_classes(task: Task[Any]) -> Iterator[str]:
    counts = Counter(task.split("train")["label"])
    names, total = task.label_names, sum(counts.values())
    absent = [names[number] for number in range(len(names)) if not counts[number]]
    if absent:
        yield f"no training row has the label {', '.join(absent[:5])}{' or others' if len(absent) > 5 else ''}"
    rare = [names[number] for number, count in counts.items() if count < _FEW_OF_A_CLASS]
    if rare:
        yield (f"{len(rare)} of {len(names)} labels {'has' if len(rare) == 1 else 'have'} fewer than "
               f"{_FEW_OF_A_CLASS} training rows: {', '.join(sorted(rare)[:5])}{', ...' if len(rare) > 5 else ''}")
    (most, count), = counts.most_common(1)
    if count > _MAJORITY * total:
        yield (f"{count:,} of {total:,} training rows have the label {names[most]}: whoever always says so is right as "
               "often; look at macro_f1 beside accuracy")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
