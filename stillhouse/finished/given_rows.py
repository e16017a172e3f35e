"""Rows for a model to answer, from files, pipes and Python, a stretch at a time: a pipe may be of any length."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from stillhouse.errors import DataError
from stillhouse.tasks import Task
from stillhouse.tasks.data_files import Rows, format_suffix, json_line, read_rows

STRETCH = 256
"""Rows that are encoded and answered together."""

_FROM_PYTHON = "the given rows"

Given = str | Path | Iterable[Mapping[str, Any]] | Iterable[str]
"""A file, folder or hub id; or rows by column; or texts, where a task reads one text a row."""


def stretches(task: Task[Any], given: Given) -> Iterator[Rows]:
    """The rows of a source, or of Python objects, a stretch at a time. Raises `DataError`."""
    if isinstance(given, (str, Path)):
        yield from _cut(as_read(task, given))
        return
    yield from _gathered(_FROM_PYTHON, _numbered(given), task)


def lines(task: Task[Any], stream: Iterable[bytes], source: str = "standard input") -> Iterator[Rows]:
    """The rows of a stream a stretch at a time: a JSON object a line, or a text a line if the first is no object.

    Empty lines are passed over. Raises `DataError` with the number of a line that is no UTF-8 or no JSON.
    """
    yield from _gathered(source, _parsed(stream, source), task)


def as_read(task: Task[Any], source: str | Path) -> Rows:
    """All rows of a file, folder or hub id; the lines of a text file as the task's one text. Raises `DataError`."""
    rows = read_rows(str(source), "test")
    column = text_column(task)
    if format_suffix(source) != ".txt" or column is None:
        return rows
    return dataclasses.replace(rows, columns={column: rows.columns["text"]})


def as_given(task: Task[Any], given: Iterable[Any]) -> Rows:
    """All rows of Python objects, which may be none. Raises `DataError` for what is no row, and for a mapping."""
    return _rows(_FROM_PYTHON, list(_numbered(given)), task)


def text_column(task: Task[Any]) -> str | None:
    """The column of the one text that makes a row; None in a task whose rows are made of more, or of something else."""
    named = [(getattr(task.spec, name, None), kind) for name, kind in task.text_columns.items()]
    given = [(column, kind) for column, kind in named if column is not None]
    if len(given) != 1 or given[0][1] != "text":
        return None
    column = given[0][0]
    return str(column if isinstance(column, str) else column[0])


def _cut(rows: Rows) -> Iterator[Rows]:
    places = range(len(rows)) if rows.places is None else rows.places
    for start in range(0, len(rows), STRETCH):
        part = slice(start, start + STRETCH)
        yield dataclasses.replace(rows, columns={name: values[part] for name, values in rows.columns.items()},
                                  places=places[part])


def _gathered(source: str, rows: Iterator[tuple[int, Any]], task: Task[Any]) -> Iterator[Rows]:
    while part := list(islice(rows, STRETCH)):
        yield _rows(source, part, task)


def _rows(source: str, numbered: Sequence[tuple[int, Any]], task: Task[Any]) -> Rows:
    """Objects and their numbers from 0 as rows, which have None where they lack a column that others have."""
    column = text_column(task)
    objects = [_object(row, f"{source}, row {place + 1}", column) for place, row in numbered]
    names = dict.fromkeys(name for row in objects for name in row)
    return Rows(source, {name: [row.get(name) for row in objects] for name in names},
                places=[place for place, _ in numbered])


def _object(row: Any, where: str, column: str | None) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, str) and column is not None:
        return {column: row}
    more = "" if column is not None else "; in this task a row is more than a text"
    raise DataError(f"{where}: {row!r:.80} is no object with columns, such as {{\"text\": \"...\"}}{more}")


def _numbered(rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    if isinstance(rows, Mapping):  # whose items would be the names of its columns
        raise DataError(f"{_FROM_PYTHON}: this is a mapping ({', '.join(map(repr, list(rows)[:5]))}), a row or "
                        "columns; give a list of rows, as in [{\"text\": \"...\"}]")
    if not isinstance(rows, Iterable):
        raise DataError(f"{_FROM_PYTHON}: {rows!r:.80} is of type {type(rows).__name__}; give a list of rows, as in "
                        "[{\"text\": \"...\"}], or the path of a file")
    return iter(enumerate(rows))


def _parsed(stream: Iterable[bytes], source: str) -> Iterator[tuple[int, Any]]:
    """Each line that is not empty, as an object or a text, and its number from 0."""
    are_objects: bool | None = None
    for place, line in enumerate(stream):
        try:
            text = line.decode("utf-8" if place else "utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{source}, line {place + 1}: not UTF-8 text (byte {error.start}); write UTF-8") from error
        if not text:
            continue
        if are_objects is None:
            are_objects = text.startswith("{")
        yield place, json_line(text, f"{source}, line {place + 1}") if are_objects else text
