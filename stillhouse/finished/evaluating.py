"""How good a finished run's student, or any model, is on labelled data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from stillhouse.errors import DataError
from stillhouse.finished.finished_run import FinishedRun, open_run
from stillhouse.finished.given_rows import as_given, as_read
from stillhouse.tasks import Task
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.pretrained import are_nameless
from stillhouse.training import resolve_device

Labelled = str | Path | Iterable[Mapping[str, Any]]
"""A file, folder or hub id; or rows by column."""


def evaluate(run: FinishedRun | str | Path, data: Labelled, *, batch_size: int = 64,
             device: str = "auto") -> dict[str, Any]:
    """``{"task": ..., "rows": 30, "metric": "accuracy", "metrics": {"accuracy": 0.9, ...}}`` of a model on its data.

    Labels by name are the model's own, whatever their order in the data; numbers count the model's labels.

    Args:
        run: a finished run or a model, opened or not.
        data: a file, folder or hub id (its split ``test``, unless it ends in ``@split``), or rows by column. Columns
            are called as in the run's recipe (see `open_run` for others).
        batch_size: rows that the model reads together.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises `ConfigError`, `PlanError`, and `DataError` for data that is wrong and for labels that the model does not
    know.
    """
    opened = run if isinstance(run, FinishedRun) else open_run(run)
    task = opened.task
    rows = as_read(task, data) if isinstance(data, (str, Path)) else as_given(task, data)
    if not len(rows):
        raise DataError("the given rows: there are none; give at least one")
    with opened.reading():
        examples = task.labelled(_by_name(task, rows), "test")
    place = resolve_device(device)
    model: nn.Module = opened.load_student()
    judgement = task.evaluate(model.to(place), task.encoded(examples, opened.tokenizer()), batch_size=batch_size,
                              autocast_dtype=opened.precision(place).autocast_dtype)
    return {"task": task.name, "rows": len(examples), "metric": task.metric, "metrics": dict(judgement.metrics)}


def results_text(found: Mapping[str, Any]) -> str:
    """What `evaluate` gives, as a small table with the metric by which models are chosen first."""
    metrics = found["metrics"]
    names = sorted(metrics, key=lambda name: name != found["metric"])
    width = max(map(len, names))
    return "\n".join([f"{found['task']}, {found['rows']:,} rows",
                      *(f"{name:<{width}}  {metrics[name]:.4f}" for name in names)])


def _by_name(task: Task[Any], rows: Rows) -> Rows:
    """Labels that are numbers of names which the data carries with it, as these names: a model may count otherwise."""
    columns = dict(rows.columns)
    for setting in task.label_columns:
        column = getattr(task.spec, setting)
        names = rows.class_names.get(column, ())
        if names and len(task.label_names) > 1 and not _count_alike(names, task.label_names):
            columns[column] = [_named(value, names) for value in columns[column]]
    return dataclasses.replace(rows, columns=columns)


def _count_alike(names: Sequence[str], others: Sequence[str]) -> bool:
    if are_nameless(names) or are_nameless(others):
        return True
    return [name.casefold() for name in names] == [name.casefold() for name in others]


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_named(each, names) for each in value]
    return names[value] if type(value) is int and 0 <= value < len(names) else value
