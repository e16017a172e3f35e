"""Inputs that come twice in the data, of which people should know before they trust a result."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from stillhouse.tasks.base import Task


def repetitions(task: Task[Any]) -> Iterator[str]:
    """A line about training texts with different labels, and one about each split with rows of the training data."""
    splits = {split: _inputs(task, split) for split in task.num_rows}
    given, labels = splits["train"][:task.num_labelled], _labels(task)  # without rows that augmentation has added
    by_input: Mapping[Hashable, set[str]] = defaultdict(set)
    if labels:
        for row, label in zip(given, labels, strict=True):
            by_input[row].add(label)
        contradicting = sum(len(found) > 1 for found in by_input.values())
        if contradicting:
            texts = "training text" if contradicting == 1 else "training texts"
            yield f"{contradicting:,} {texts} with different labels in different rows"
    known = set(given)
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
    return [json.dumps(value) for value in task.split("train")[task.label_columns[0]][:task.num_labelled]]


def _plain(value: Any) -> Hashable:
    return value if isinstance(value, str) else json.dumps(value)
