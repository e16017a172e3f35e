"""The commands ``stillhouse predict`` and ``stillhouse evaluate``. Nothing heavy is imported until one runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillhouse.errors import ConfigError
from stillhouse.interruption import interruptible
from stillhouse.whole_files import folder_made, written_whole

if TYPE_CHECKING:
    from stillhouse.finished.finished_run import FinishedRun

Run = Annotated[str, typer.Argument(metavar="RUN", show_default=False,
                                    help="A run folder, a model's folder, or a hub id.")]
Task = Annotated[str | None, typer.Option(
    "--task", metavar="TASK", help="The task of a model whose configuration does not tell.")]
Settings = Annotated[list[str] | None, typer.Option(
    "--set", metavar="KEY=VALUE", help="A value of the section data, as in text=sentence; may be repeated.")]
BatchSize = Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Rows that are read together.")]


def predict_command(
    run: Run,
    file: Annotated[str | None, typer.Argument(
        metavar="[FILE]", show_default=False,
        help="The rows; else standard input: a JSON object a line, or a text a line.")] = None,
    output: Annotated[Path | None, typer.Option(
        "--output", metavar="OUT", help="Write there instead of to standard output.")] = None,
    batch_size: BatchSize = 64,
    task: Task = None,
    settings: Settings = None,
) -> None:
    """Say what a student answers to new rows, as JSON lines; no labels are needed."""
    with interruptible():
        from stillhouse.finished.given_rows import lines, stretches
        from stillhouse.finished.predicting import predictions

        if output is not None:
            _require_place(output)
        opened = _opened(run, task, settings)
        if file is None and sys.stdin.isatty():
            typer.echo("reading rows from standard input, one a line; end with Ctrl-D", err=True)
        rows = lines(opened.task, sys.stdin.buffer) if file is None else stretches(opened.task, file)
        said = predictions(opened, rows, batch_size=batch_size)
        if output is None:
            _print(said)
        else:
            _write(output, said)


def evaluate_command(
    run: Run,
    data: Annotated[str, typer.Option("--data", metavar="FILE", show_default=False,
                                      help="Rows with labels: a file, a folder or a hub id.")],
    batch_size: BatchSize = 64,
    task: Task = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how good a student, or any model, is on labelled data."""
    with interruptible():
        from stillhouse.finished.evaluating import evaluate, results_text

        found = evaluate(_opened(run, task, settings), data, batch_size=batch_size)
        typer.echo(json.dumps(found, indent=2) if as_json else results_text(found))


def _opened(run: str, task: str | None, settings: Sequence[str] | None) -> FinishedRun:
    from stillhouse.finished.finished_run import open_run
    from stillhouse.recipe.merging import apply_override

    values: dict[str, Any] = {}
    for setting in settings or ():
        values = apply_override(values, setting)
    return open_run(run, task=task, settings=values)


def _print(said: Iterable[Any]) -> None:
    """Each line as soon as it is known. Whoever reads them may stop, as ``head`` does."""
    try:
        for one in said:
            sys.stdout.write(json.dumps(one, ensure_ascii=False) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes the pipe


def _require_place(path: Path) -> None:
    """Raise `ConfigError` for a folder, for a file in what is no folder, and for where nothing may be written."""
    if os.path.isdir(path):
        raise ConfigError(f"--output {str(path)!r} is a folder; name a file, as in --output {path / 'said.jsonl'}")
    above = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    if not os.path.isdir(above):
        raise ConfigError(f"--output {str(path)!r} cannot be written: {above} is no folder; name another file")
    place = path if os.path.exists(path) and not os.path.isfile(path) else above  # a pipe is written to as it is
    if not os.access(place, os.W_OK):
        raise ConfigError(f"--output {str(path)!r} cannot be written: you may not write to {place}; name another file")


def _write(path: Path, said: Iterable[Any]) -> None:
    """All of it, or nothing; folders that are missing are made."""
    try:
        with folder_made(path.parent), written_whole(path) as aside, aside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in said)
    except OSError as error:
        raise ConfigError(f"--output {str(path)!r} cannot be written: {error.strerror or error}; name another "
                          "file") from error
