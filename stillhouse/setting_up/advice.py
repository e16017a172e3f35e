"""What people should know about their data before they train on it: rows, classes, and texts that come twice."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from stillhouse.tasks import Task

_FEW_ROWS, _FEW_OF_A_CLASS, _MAJORITY = 200, 5, 0.9


def advice(task: Task[Any]) -> list[str]:
    """Lines about a task whose data is loaded; none where nothing is remarkable."""
    lines = list(_of_rows(task))
    if task.problem_type == "single_label_classification":
        lines += _of_classes(task)
    if task.name == "token-classification" and all(name.isdecimal() for name in task.label_names):
        lines.append("the tags are numbers, so that nobody knows which make an entity, and accuracy judges them; list "
                     "their names in data.label_names to have the F1 of entities")
    return [*lines, *_of_repetitions(task)]


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


def _of_repetitions(task: Task[Any]) -> Iterator[str]:
    """Inputs that come twice in the training data with different labels, or in another split too."""
    splits = {split: _inputs(task, split) for split in task.num_rows}
    labels = _labels(task)
    by_input: Mapping[Hashable, set[str]] = defaultdict(set)
    if labels:
        for row, label in zip(splits["train"], labels, strict=True):
            by_input[row].add(label)
        contradicting = sum(len(found) > 1 for found in by_input.values())
        if contradicting:
            yield f"{_number(contradicting, 'training text')} with different labels in different rows"
    known = set(splits["train"])
    for split in ("validation", "test"):
        again = sum(row in known for row in splits.get(split, ()))
        if again:
            yield (f"{again:,} of {task.num_rows[split]:,} {split} rows are in the training data too, so that results "
                   "there look better than they are")


def _inputs(task: Task[Any], split: str) -> list[Hashable]:
    """What a model reads of each row."""
    examples = task.split(split)
    columns: Sequence[Sequence[Any]] = [examples[name] for name in task.text_columns if name in examples.columns]
    return [tuple(_plain(value) for value in row) for row in zip(*columns, strict=True)]


def _labels(task: Task[Any]) -> list[str]:
    """What is right of each training row, as text; empty where several answers may be right."""
    if not task.label_names:
        return []
    return [json.dumps(value) for value in task.split("train")[task.label_columns[0]]]


def _plain(value: Any) -> Hashable:
    return value if isinstance(value, str) else json.dumps(value)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
