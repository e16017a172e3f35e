"""Columns of the data as checked values: every problem names the file, the row and the column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stillhouse.errors import DataError
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.packed import packed


def texts(rows: Rows, column: str) -> Sequence[str]:
    """A text a row. Raises `DataError` for a row without one, or with half a character in it."""
    values = rows.column(column)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            found = "there is no text" if value is None else f"{value!r:.80} is of type {type(value).__name__}"
            raise DataError(f"{place(rows, index, column)}: {found}; every row needs a text")
    _require_characters(rows, column, values)
    return packed(values)


def text_lists(rows: Rows, column: str) -> Sequence[list[str]]:
    """A list of texts a row, such as the words of a sentence. Raises `DataError` for a row without one."""
    values = rows.column(column)
    for index, value in enumerate(values):
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value) or not value:
            raise DataError(f"{place(rows, index, column)}: {value!r:.80} is no list of texts; write "
                            '["...", "..."] with at least one (JSON or parquet files hold lists)')
    _require_characters(rows, column, values)
    return packed(map(list, values))


def numbers(rows: Rows, column: str) -> list[float]:
    """A finite number a row; in files of plain text, what reads as one. Raises `DataError`."""
    found = []
    for index, value in enumerate(rows.column(column)):
        try:
            number = float(value) if not isinstance(value, (bool, str)) or not rows.is_typed else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            shown = "there is no number" if value in (None, "") else f"{value!r:.80} is no finite number"
            raise DataError(f"{place(rows, index, column)}: {shown}; every row needs one")
        found.append(number)
    return found


def place(rows: Rows, index: int, column: str) -> str:
    """How to name a cell to people."""
    return f"{rows.where(index)}, column {column!r}"


def _require_characters(rows: Rows, column: str, values: Sequence[Any]) -> None:
    for index, value in enumerate(values):
        try:
            "".join(value).encode()  # a text or a list of texts
        except UnicodeEncodeError as error:
            raise DataError(f"{place(rows, index, column)}: {value!r:.80} holds half of a surrogate "
                            "pair, which is no character; remove it") from error
