"""What a finished run's student says of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from stillhouse.errors import PlanError
from stillhouse.finished.finished_run import FinishedRun, open_run
from stillhouse.finished.given_rows import Given, stretches
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.said import Said
from stillhouse.training import Precision, resolve_device


def predict(run: FinishedRun | str | Path, rows: Given, *, batch_size: int = 64, device: str = "auto") -> list[Said]:
    """What the student says of each row: its inputs and, beside them, the answer, as plain values that JSON can hold.

    Args:
        run: a finished run or a model, opened or not.
        rows: a file, folder or hub id; mappings from columns to values; or texts, where a row is one text. Columns are
            called as in the run's recipe. Labels are not needed.
        batch_size: rows that the model reads together.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    What is said depends on the task: ``{"text": "...", "label": "x", "confidence": 0.93, "probabilities": {...}}``; see
    the task's class. Raises `ConfigError`, `PlanError` for a task that has no words for what is said, and `DataError`.
    """
    opened = run if isinstance(run, FinishedRun) else open_run(run)
    return list(predictions(opened, stretches(opened.task, rows), batch_size=batch_size, device=device))


def predictions(run: FinishedRun, parts: Iterable[Rows], *, batch_size: int = 64,
                device: str = "auto") -> Iterator[Said]:
    """The same, of each stretch of rows as it comes. The model is loaded before the first is asked for."""
    task = run.task
    if task.unsaid:
        raise PlanError(f"{task.name}: {task.unsaid}")
    place = resolve_device(device)
    model: nn.Module = run.load_student()
    return _answered(run, model.to(place), run.tokenizer(), run.precision(place), parts, batch_size)


def _answered(run: FinishedRun, model: nn.Module, tokenizer: PreTrainedTokenizerBase, precision: Precision,
              parts: Iterable[Rows], batch_size: int) -> Iterator[Said]:
    task = run.task
    for rows in parts:
        with run.reading():
            examples = task.unlabelled(rows)
        judgement = task.evaluate(model, task.encoded(examples, tokenizer), batch_size=batch_size,
                                  autocast_dtype=precision.autocast_dtype)
        for inputs, said in zip(task.inputs(examples), judgement.said, strict=True):
            yield {**inputs, **said}
