"""Reading rows from files, folders and the hub, with errors that say which row of which file is wrong.

JSON and CSV files are read here and not by `datasets`, whose readers guess types (a label "None" or "007", a text that
is a date), cannot say which row is broken, and copy every file into a cache.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillhouse.errors import DataError, nearest, unknown_name
from stillhouse.tasks.packed import Column, packed

FORMATS = ".json, .jsonl, .csv, .tsv, .txt (each also with .gz) or .parquet"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_WITH_SPLIT = re.compile(r"(?P<name>.+)@(?P<split>[^@/\\]+)")


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one source, column by column."""

    source: str
    columns: Mapping[str, Sequence[Any]]
    """All as long; None where a row has no value."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The names that integer columns of a parquet file, folder or hub data set carry with them."""
    is_typed: bool = True
    """False if every value is text, as in CSV, so that ``1`` may mean a number."""
    places: Sequence[int] | None = None
    """Where each row is in the file, if these are not its rows one by one."""
    wanted: Mapping[str, str] = field(default_factory=dict)
    """The columns that settings name, each with what to do if there is none of that name; empty if that is plain."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str) -> Sequence[Any]:
        """The values of a column. Raises `DataError` with the names there are."""
        if name not in self.columns:
            problem = unknown_name("column", name, self.columns, unlikely=self.wanted)
            raise DataError(f"{self.source}: {problem}{self.wanted.get(name, '')}")
        return self.columns[name]

    def where(self, index: int) -> str:
        """How to name a row to people, who count from 1."""
        return f"{self.source}, row {(index if self.places is None else self.places[index]) + 1}"

    def first(self, count: int) -> Rows:
        """The first rows, all if there are not as many."""
        columns = {name: packed(values[:count]) for name, values in self.columns.items()}
        return dataclasses.replace(self, columns=columns, places=None if self.places is None else self.places[:count])


def read_rows(source: str, split: str = "train") -> Rows:
    """The rows of a file (by its suffix), a folder, or a hub id ``name[:config]``.

    A folder is one written by ``save_to_disk``, or any that ``datasets.load_dataset`` understands. A folder or hub id
    may end in ``@split``; otherwise the split is ``split``. A JSON file holds a list of objects, an object a line, or
    an object with one list of objects. A .txt file holds a text a line, in column ``text``; empty lines are left out.
    CSV and TSV files start with a line of column names; an empty cell is no value, and quotes mean nothing in TSV.
    Raises `DataError` if there are no rows or they cannot be read.
    """
    path = Path(source).expanduser()
    rows = _from_file(source, path) if path.is_file() else _from_datasets(source, split)
    if not len(rows):
        raise DataError(f"{source}: there are no rows; give a file with at least one")
    return rows


def is_path(source: str) -> bool:
    """Whether a name can only be that of a file or folder, not of something on the hub."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source


def format_suffix(name: str | Path) -> str:
    """The suffix that says what a file holds, in lower case: ``.jsonl`` of ``rows.JSONL.gz``; empty without one."""
    return Path(Path(name).name.lower().removesuffix(".gz")).suffix


def json_line(line: str, where: str) -> Any:
    """What a line of JSON holds. Raises `DataError`, which says where it is and how it begins."""
    try:
        return json.loads(line)
    except ValueError as error:
        text = line.strip()
        raise DataError(f"{where}: not readable as JSON ({error}): {text if len(text) <= 80 else text[:77] + '...'}\n"
                        "every line is one row, written as a JSON object") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, unpacked if its name ends in .gz. Raises `DataError`."""
    return "".join(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    """The lines of such a file, each with its end; only a line feed ends one, for JSON allows U+2028 in a text."""
    position = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for line in file:
                yield line.decode("utf-8" if position else "utf-8-sig")
                position += len(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {position + error.start}): save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _from_file(source: str, path: Path) -> Rows:
    reader, is_gzipped = _READERS.get(format_suffix(path)), path.suffix.lower() == ".gz"
    if reader is None or (is_gzipped and reader is _from_parquet):
        raise DataError(f"{source}: the suffix does not say what kind of file it is; name it {FORMATS}")
    return reader(source, path)


def _from_json(source: str, path: Path) -> Rows:
    text = read_text(path)
    try:
        content = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise DataError(f"{source}: not readable as a JSON list: {error}") from error
        return _from_json_lines(source, path)
    lists = [value for value in content.values() if _are_objects(value)] if isinstance(content, dict) else []
    if isinstance(content, list):
        return _from_objects(source, content)
    if len(lists) > 1:
        raise DataError(f"{source}: {len(lists)} lists of rows in one file; give a file with one list")
    return _from_objects(source, lists[0] if lists else [content])


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _from_json_lines(source: str, path: Path) -> Rows:
    def objects() -> Iterator[Any]:
        number = 0
        for line in _lines(path):
            if not line.strip():
                continue
            number += 1
            yield json_line(line, f"{source}, row {number}")

    return _from_objects(source, objects())


def _from_objects(source: str, rows: Iterable[Any]) -> Rows:
    columns: dict[str, Column] = {}
    count = 0
    for count, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{source}, row {count}: a {type(row).__name__}; a row is a JSON object, "
                            'such as {"text": "...", "label": "..."}')
        for name, value in row.items():
            if name not in columns:
                columns[name] = Column(missing=count - 1)
            columns[name].append(value)
        if len(row) < len(columns):
            _fill(columns, count)
    return Rows(source, {name: column.values() for name, column in columns.items()})


def _fill(columns: Mapping[str, Column], count: int) -> None:
    """No value in the columns that the last of so many rows does not have."""
    for column in columns.values():
        if len(column) < count:
            column.append(None)


def _from_csv(source: str, path: Path) -> Rows:
    header = next((line for line in _lines(path) if line.strip()), "")
    if "," not in header and ";" in header:
        raise DataError(f"{source}: the first line has semicolons and no comma, and what stands between the columns of "
                        "a .csv file is a comma; save it with commas")
    if "," not in header and "\t" in header:
        raise DataError(f"{source}: the first line has tabs and no comma, and what stands between the columns of a "
                        ".csv file is a comma; name the file .tsv, or save it with commas")
    return _from_cells(source, path, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _from_tsv(source: str, path: Path) -> Rows:
    return _from_cells(source, path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _from_cells(source: str, path: Path, **dialect: Any) -> Rows:
    lines = (row for row in csv.reader(_lines(path), strict=True, **dialect) if row)
    header: list[str] = []
    columns: list[Column] = []
    count = 0
    try:
        header = next(lines, [])
        if len(set(header)) < len(header):
            raise DataError(f"{source}: two columns have the same name: {', '.join(header)}")
        columns = [Column() for _ in header]
        for row in lines:
            count += 1
            if len(row) != len(header):
                raise DataError(f"{source}, row {count}: {len(row)} cells, but the first line names {len(header)} "
                                f"columns ({', '.join(header)})")
            for column, cell in zip(columns, row, strict=True):
                column.append(cell or None)
    except csv.Error as error:
        raise DataError(f"{source}, row {count + 1}: not readable as CSV ({error}); correct the row, or give "
                        "JSON lines, which hold any text") from error
    values = {name: column.values() for name, column in zip(header, columns, strict=True)}
    return Rows(source, values, is_typed=False)


def _from_parquet(source: str, path: Path) -> Rows:
    import datasets
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    try:
        return _from_dataset(source, datasets.Dataset(parquet.ParquetFile(path).read()))
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise DataError(f"{source}: cannot be read as parquet: {error}") from error


def _from_text(source: str, path: Path) -> Rows:
    texts, places = Column(), []
    for place, line in enumerate(_lines(path)):
        if line.strip():
            texts.append(line.strip())
            places.append(place)
    return Rows(source, {"text": texts.values()}, places=places)


_READERS: dict[str, Callable[[str, Path], Rows]] = {
    ".json": _from_json,
    ".jsonl": _from_json_lines,
    ".csv": _from_csv,
    ".tsv": _from_tsv,
    ".parquet": _from_parquet,
    ".txt": _from_text,
}


def _from_datasets(source: str, split: str) -> Rows:
    match = _WITH_SPLIT.fullmatch(source)
    name, named_split = match.groups() if match else (source, "")
    folder = Path(name).expanduser()
    if not folder.is_dir() and (is_path(name) or _has_format(name) or not _HUB_ID.fullmatch(name)):
        raise DataError(_missing(source))
    with _no_progress_bars():
        try:
            if folder.is_dir():
                dataset = _load_folder(folder, named_split, named_split or split)
            else:
                dataset = _load_hub(name, named_split or split)
        except DataError:
            raise
        except Exception as error:  # a dozen kinds, from the network to a broken file, none of them listed anywhere
            kind = "this folder" if folder.is_dir() else f"no file {folder.absolute()} exists, and the hub's data set"
            raise DataError(f"data {source!r}: {kind} gives no split {named_split or split!r}: {error}\n"
                            "write FOLDER@split or name[:config][@split] to choose another") from error
    return _from_dataset(source, dataset)


def _load_folder(folder: Path, named_split: str, split: str) -> Any:
    import datasets

    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(folder)[split]
    if not (folder / "state.json").is_file():
        return datasets.load_dataset(str(folder), split=split)
    if named_split:
        raise DataError(f"{folder} holds one data set without splits: leave out @{named_split}")
    return datasets.load_from_disk(folder)


def _load_hub(name: str, split: str) -> Any:
    import datasets

    hub_name, _, config = name.partition(":")
    return datasets.load_dataset(hub_name, config or None, split=split)


def _from_dataset(source: str, dataset: Any) -> Rows:
    found = {name: getattr(feature, "feature", feature) for name, feature in dataset.features.items()}
    classes = {name: tuple(feature.names) for name, feature in found.items() if hasattr(feature, "names")}
    return Rows(source, dataset.with_format(None)[:], classes)


def _has_format(name: str) -> bool:
    return format_suffix(name) in _READERS


def _missing(source: str) -> str:
    path = Path(source).expanduser().absolute()
    remedy = f"give a {FORMATS} file, a folder, or a hub id name[:config][@split]"
    if path.exists():  # a device or a pipe
        return f"{path} is neither a file nor a folder\n{remedy}"
    siblings = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    hint = f"; did you mean {near!r}?" if near else ""
    parent = "" if path.parent.is_dir() else f" (nor does the folder {path.parent})"
    return f"there is no file {path}{parent}{hint}\n{remedy}"


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
