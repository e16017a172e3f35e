"""Data as a user of Python has it: names of files, data sets, data frames, lists of rows."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from stillhouse.cache_dirs import given_dir
from stillhouse.errors import ConfigError, DataError
from stillhouse.front_door.given import Given

DataLike: TypeAlias = Any
"""A path or hub id, a ``datasets.Dataset``, a pandas ``DataFrame``, or a list of mappings (or of texts).

Of the training data also a ``datasets.DatasetDict``, or another mapping from names of splits to such."""

_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_TAKES = ("a path or hub id, a datasets.Dataset, a pandas DataFrame, or a list of rows such as {'text': '...', "
          "'label': '...'}")
_ROWS_AT_ONCE = 10_000
_NO_LABEL = -1
"""What data sets on the hub write into a test split whose labels are secret."""


def given_splits(train: DataLike, validation: DataLike, test: DataLike,
                 label_columns: Collection[str]) -> dict[str, str | Given]:
    """Where each split is, or will be; a split that is not given is absent. Nothing is written.

    Splits that ``train`` holds stand in for ``validation`` and ``test`` where these are None; a test split without
    labels is left out, with a warning. Raises `ConfigError` for what is no data, and `DataError` for data sets whose
    labels have other names, or for rows that JSON cannot hold.
    """
    splits = {"train": train, "validation": validation, "test": test}
    if isinstance(train, Mapping):
        found = _splits_in(train)
        splits = {split: found.get(split) if split == "train" or value is None else value
                  for split, value in splits.items()}
        if test is None and _lacks_labels(splits["test"], label_columns):
            warnings.warn("the test split has no labels (-1 in every row), so it is left out, and results are those "
                          "of the validation data; give test=... to choose other data", stacklevel=3)
            del splits["test"]
    present = {split: value for split, value in splits.items() if value is not None}
    _require_same_names(present)
    return {split: _source(value, split) for split, value in present.items()}


def rows_of(data: Any) -> Any:
    """The rows of a data set or data frame as mappings; anything else as it is."""
    dataset = _as_dataset(data)
    return data if dataset is None else [row for table in _batches(dataset) for row in table.to_pylist()]


def _splits_in(train: Mapping[str, Any]) -> dict[str, Any]:
    found = {split: next((train[name] for name in names if name in train), None) for split, names in _SPLITS.items()}
    if found["train"] is None:
        raise ConfigError(f"train: a mapping from names of splits to data, one of them 'train'; got "
                          f"{', '.join(map(repr, train)) or 'an empty one'}. Name the split, as in train=data['train']"
                          ", or make a data set of columns: train=datasets.Dataset.from_dict({...})")
    return found


def _source(value: Any, split: str) -> str | Given:
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    dataset = _as_dataset(value)
    if dataset is None:
        return _as_lines(_mappings(value, split), split)
    return Given(split, given_dir() / "data" / f"{_content_hash(dataset)}.parquet",
                 lambda path: _write_parquet(dataset, path))


def _as_dataset(value: Any) -> Any:
    """The data set that a ``Dataset`` or ``DataFrame`` is, None for the rest. Raises `ConfigError` for a stream."""
    if isinstance(value, (str, os.PathLike, Sequence)):
        return None
    import datasets
    import pandas as pd  # type: ignore[import-untyped]

    if isinstance(value, datasets.IterableDataset):
        raise ConfigError("an IterableDataset can be read only once, and distillation reads it many times; load it "
                          "without streaming=True, or give datasets.Dataset.from_list(list(data))")
    if isinstance(value, pd.DataFrame):
        plain = {name: column.astype(column.dtype.categories.dtype)
                 for name, column in value.items() if isinstance(column.dtype, pd.CategoricalDtype)}
        return datasets.Dataset.from_pandas(value.assign(**plain), preserve_index=False)
    return value if _is_dataset(value) else None


def _mappings(rows: Any, called: str) -> list[dict[str, Any]]:
    """A list of rows. Raises `ConfigError` for anything else."""
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise ConfigError(f"{called}: {rows!r:.80} is of type {type(rows).__name__}; give {_TAKES}")
    found = [{"text": row} if isinstance(row, str) else row for row in rows]
    for number, row in enumerate(found, start=1):
        if not isinstance(row, Mapping):
            raise ConfigError(f"{called}, row {number}: {row!r:.80} is of type {type(row).__name__}; a row is a "
                              "mapping such as {'text': '...', 'label': '...'}, or a text")
    return [dict(row) for row in found]


def _as_lines(rows: Sequence[Mapping[str, Any]], split: str) -> Given:
    lines = []
    for number, row in enumerate(rows, start=1):
        try:
            lines.append(json.dumps(row, default=_plain) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(f"{split}, row {number}: {error}; give texts, numbers, lists and mappings, and leave other "
                            "columns out") from error
    text = "".join(lines)
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return Given(split, given_dir() / "data" / f"{name}.jsonl", write)


def _plain(value: Any) -> Any:
    """Numbers and lists of numpy as Python has them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r:.80} is of type {type(value).__name__}")


def _batches(dataset: Any) -> Iterator[Any]:
    """Tables of the rows as they are, whatever format the user has set for reading them."""
    return iter(dataset.with_format("arrow").iter(_ROWS_AT_ONCE))


def _content_hash(dataset: Any) -> str:
    """Of columns, their types and all values; a data set's own fingerprint is of how it was made."""
    digest = hashlib.blake2b(json.dumps(dataset.features.to_dict(), sort_keys=True).encode(), digest_size=16)
    for table in _batches(dataset):
        digest.update(json.dumps(table.to_pydict(), default=repr).encode())
    return digest.hexdigest()


def _write_parquet(dataset: Any, path: Path) -> None:
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    schema = dataset.features.arrow_schema  # with the names of the labels
    with parquet.ParquetWriter(path, schema) as writer:
        for table in _batches(dataset):
            writer.write_table(table.cast(schema))


def _class_names(value: Any) -> dict[str, list[str]]:
    """The names that the integer columns of a data set stand for, by column."""
    if not _is_dataset(value):
        return {}
    inner = {name: getattr(feature, "feature", feature) for name, feature in value.features.items()}
    return {name: list(feature.names) for name, feature in inner.items() if hasattr(feature, "names")}


def _require_same_names(splits: Mapping[str, Any]) -> None:
    """Raise `DataError` where the same number stands for another label in another split."""
    train = _class_names(splits["train"])
    for split, value in splits.items():
        for column, names in _class_names(value).items():
            if names != train.get(column, names):
                raise DataError(f"{split}, column {column!r}: its numbers stand for {', '.join(names)}, but those of "
                                f"train for {', '.join(train[column])}; bring both to one order, as with "
                                f"{split}.cast_column({column!r}, train.features[{column!r}]) where they hold names")


def _lacks_labels(test: Any, label_columns: Collection[str]) -> bool:
    if not _is_dataset(test) or not len(test):
        return False
    columns = set(test.column_names) & set(label_columns)
    return any(set(test[column][:]) == {_NO_LABEL} for column in columns if isinstance(test[0][column], int))


def _is_dataset(value: Any) -> bool:
    if isinstance(value, (str, os.PathLike, Sequence)):
        return False
    import datasets  # heavy, and for nothing where files are named

    return isinstance(value, datasets.Dataset)
