"""The names of the labels, and every row's label as a number that counts through them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from stillhouse.errors import DataError, unknown_name
from stillhouse.tasks.data_files import Rows, read_text

_SHOWN = 20
_WHOLE_NUMBER = re.compile(r"-?\d+")


@final
@dataclass(frozen=True)
class Labels:
    """The label names of a task and where they are from."""

    names: tuple[str, ...]
    column: str
    are_listed: bool
    """Whether the user or the data set listed them; otherwise they are what occurs in the train split."""
    kind: type[int] | type[str] | None
    """What labels in the data must be; None if both names and numbers do."""

    @classmethod
    def of(cls, train: Rows, column: str, given: str | Sequence[str] | None, *, several: bool = False) -> Labels:
        """The labels given by name, else those a data set carries with it, else those that occur in ``train``.

        Names that occur are sorted; whole numbers from 0 to the largest are named "0", "1", ...; true and false are the
        names "true" and "false". With ``several`` every row has a list of labels. Raises `DataError`.
        """
        if given is None:
            given = train.class_names.get(column)
        if given is not None:
            file = given if isinstance(given, str) else None
            names = _names_in(file, column) if file is not None else given
            return cls(_checked_names(names, file or "data.label_names"), column, True, None)
        if several:
            train = flattened(train, column)
            if not len(train):
                raise DataError(f"{train.source}, column {column!r}: no row has a label; list the names in label_names")
        values = [_plain(train, column, index, value) for index, value in enumerate(train.column(column))]
        values = _numbers_if_all(values) if not train.is_typed else values
        kind: type[int] | type[str] = int if isinstance(values[0], int) else str
        _check_kind(train, values, kind)
        found = [str(value) for value in range(_largest(train, values) + 1)] if kind is int else sorted(set(values))
        return cls(_checked_names(found, f"{train.source}, column {column!r}"), column, False, kind)

    def numbers(self, rows: Rows) -> list[int]:
        """The label of every row, from 0. Raises `DataError` for the first row whose label is not one of these."""
        positions = {name: position for position, name in enumerate(self.names)}
        values = [_plain(rows, self.column, index, value) for index, value in enumerate(rows.column(self.column))]
        if not rows.is_typed and self.kind is not str:
            known = positions if self.kind is None else {}
            values = [value if value in known else _as_number(value) for value in values]
        if self.kind is not None:
            _check_kind(rows, values, self.kind)
        return [self._number(rows, index, value, positions) for index, value in enumerate(values)]

    def sets(self, rows: Rows) -> list[list[int]]:
        """For every row, 1 for each label that it has and 0 for the others. Raises `DataError`."""
        marks = [[0] * len(self.names) for _ in range(len(rows))]
        for row, numbers in enumerate(self.lists(rows)):
            for number in numbers:
                marks[row][number] = 1
        return marks

    def lists(self, rows: Rows) -> list[list[int]]:
        """For every row the numbers of its list of labels, in order. Raises `DataError`."""
        flat = iter(self.numbers(flattened(rows, self.column)))
        return [[next(flat) for _ in values] for values in rows.column(self.column)]

    def _number(self, rows: Rows, index: int, value: int | str, positions: dict[str, int]) -> int:
        if isinstance(value, str) and value in positions:
            return positions[value]
        if isinstance(value, int) and 0 <= value < len(self.names):
            return value
        remedy = ("; a model has an output for each of these and for no other" if self.are_listed else
                  "; these are the train split's: if there are more, list all in label_names")
        where = f"{rows.where(index)}, column {self.column!r}"
        if isinstance(value, str):
            problem = unknown_name("label", value, self.names) if len(self.names) <= _SHOWN else (
                f"{unknown_name('label', value, self.names).partition(' Known: ')[0]} Known: {self._shown()}")
            raise DataError(f"{where}: {problem}{remedy}")
        negative = " (a row without a label? leave it out)" if value < 0 else ""
        raise DataError(f"{where}: label {value} is outside 0 to {len(self.names) - 1}{negative}: "
                        f"{self._shown()}{remedy}")

    def _shown(self) -> str:
        more = len(self.names) - _SHOWN
        return ", ".join(self.names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def flattened(rows: Rows, column: str) -> Rows:
    """A column of lists as a column of their items, which know the rows they are from. Raises `DataError`."""
    items: list[Any] = []
    places: list[int] = []
    for index, value in enumerate(rows.column(column)):
        if not isinstance(value, (list, tuple)):
            raise DataError(f"{rows.where(index)}, column {column!r}: {value!r:.80} is no list of labels; write "
                            "[...] (JSON and parquet files hold lists)")
        if any(isinstance(item, bool) for item in value):
            raise DataError(f"{rows.where(index)}, column {column!r}: {value!r:.80} holds true or false, and a list of "
                            "labels holds those that apply; write their names, or their numbers from 0")
        items += value
        places += [index if rows.places is None else rows.places[index]] * len(value)
    return Rows(rows.source, {column: items}, rows.class_names, rows.is_typed, tuple(places))


def _plain(rows: Rows, column: str, index: int, value: Any) -> int | str:
    """A label as a number or a name, whatever the file makes of it."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, float) and value.is_integer():  # what some writers make of a column with gaps
        return int(value)
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return value
    found = "there is no label" if value is None or value == "" else f"the label is {value!r}"
    more = "; text classification predicts other numbers with labels: regression" if isinstance(value, float) else ""
    raise DataError(f"{rows.where(index)}, column {column!r}: {found}; give a name (text) or a whole number{more}")


def _as_number(value: int | str) -> int | str:
    return int(value) if _WHOLE_NUMBER.fullmatch(str(value)) else value


def _numbers_if_all(values: Sequence[int | str]) -> list[int | str]:
    numbers = [_as_number(value) for value in values]
    return numbers if all(isinstance(value, int) for value in numbers) else list(values)


def _check_kind(rows: Rows, values: Sequence[int | str], kind: type[int] | type[str]) -> None:
    for index, value in enumerate(values):
        if not isinstance(value, kind):
            here, others = ("a number", "names") if kind is str else ("a name", "numbers")
            raise DataError(f"{rows.where(index)}: label {value!r} is {here}, but the train split begins with {others};"
                            " use one kind, or list the names in label_names")


def _largest(train: Rows, values: Sequence[Any]) -> int:
    largest = max(values)
    if min(values) < 0:
        index = next(index for index, value in enumerate(values) if value < 0)
        raise DataError(f"{train.where(index)}: label {values[index]} is negative; labels count from 0 "
                        "(a row without a label? leave it out)")
    if largest >= max(1000, len(train)):
        raise DataError(f"{train.where(values.index(largest))}: label {largest} would make {largest + 1} labels for "
                        f"{len(train)} rows; is it the right column? Otherwise list all names in label_names")
    return int(largest)


def _names_in(file: str, column: str) -> Any:
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"label_names: there is no file {path.absolute()}; give a JSON list, or a text file with a "
                        "name a line, or write the list itself")
    text = read_text(path)
    if path.suffix.lower() != ".json":
        return [line.strip() for line in text.split("\n") if line.strip()]
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        return content
    if column not in content and len(content) != 1:
        raise DataError(f"{file}: no list for column {column!r} among {', '.join(content) or 'nothing'}")
    return content[column] if column in content else next(iter(content.values()))


def _checked_names(names: Any, origin: str) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{origin}: label names are a list of texts such as [negative, positive], not {names!r:.200}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{origin}: label {repeated[0]!r} is listed twice")
    if len(names) < 2:
        raise DataError(f"{origin}: classification needs at least 2 labels, and there are {len(names)}: "
                        f"{', '.join(names) or 'none'}")
    return tuple(names)
