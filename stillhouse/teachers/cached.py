"""A read-through cache around any source: a row's answer is computed once, ever."""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor

from stillhouse.batches import bytes_of, num_rows, row_keys, select_rows, tensors_of
from stillhouse.errors import OutputError, PlanError
from stillhouse.phases import phase
from stillhouse.teachers.base import TeacherSource
from stillhouse.teachers.kept_forms import BYTES_AND_SCALES, kept_form, restored
from stillhouse.teachers.row_layout import RowLayout
from stillhouse.teachers.stores import CorruptRecordError, SignalStore, Values, columns_of, encode, values_of
from stillhouse.teachers.stores.base import Record
from stillhouse.teachers.stores.records import NAME_BYTES, VERSION
from stillhouse.types import Batch, Features, Key

Row = list[Values]  # what is kept of one row for one key: a tensor (or its bytes and scales), or one of each head
NOTHING = torch.empty(0, dtype=torch.bool)  # stands for a tensor that was asked for and not given


@final
class CachedTeacher(TeacherSource):
    """Answers from a store; asks the source inside only for the rows and keys that are missing.

    A row is named by its own inputs (without padding and labels), so the cache survives shuffling, other batch sizes,
    other padding to the right, restarts and other students. Batches whose tensors do not share the first dimension are
    kept whole. Where a batch holds ``span_mask``, logits are one number a position; where ``input_ids`` are
    (rows, choices, positions), a row is all of its choices.

    Args:
        inner: the source to ask.
        store: where answers are kept.
        dtype: the floating-point type they are kept in, or the teacher's own. With a type given, the first pass trains
            on the rounded values too, so that a run does not depend on what was in the cache before.
    """

    def __init__(self, inner: TeacherSource, store: SignalStore, dtype: torch.dtype | None = None) -> None:
        self.inner, self.store, self.dtype = inner, store, dtype
        self._identity = f"unnamed {uuid.uuid4()}"
        self._warned = False

    @property
    def fingerprint(self) -> str | None:
        if self.dtype is None or self.inner.fingerprint is None:
            return self.inner.fingerprint
        return f"{self.inner.fingerprint} kept in {self.dtype}"

    @property
    def rows_forwarded(self) -> int:
        return self.inner.rows_forwarded

    def check(self, keys: frozenset[Key]) -> None:
        if self.store.persistent and self.inner.fingerprint is None:
            raise PlanError("this teacher cannot be cached on disk: its adaptor has no name that holds across "
                            "processes; give the adaptor a version, as in FunctionAdaptor(f, version='1'), "
                            "or CalledTeacher(f, version='1'), or cache in memory")
        self.inner.check(keys)

    def width(self, key: Key) -> int | None:
        return self.inner.width(key)

    def for_task(self, task: str) -> TeacherSource:
        inner = self.inner.for_task(task)
        return self if inner is self.inner else CachedTeacher(inner, self.store, self.dtype)

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        if not keys or batch.teacher_outputs is not None:
            return self.inner.signals(batch, keys, extra)
        with phase("cache"):
            request = self._request(batch, keys, extra)
            found = self.store.read(request.names, lambda records: self._answer(request, records))
        if not isinstance(found, _Incomplete):
            return found
        part = _sub_batch(batch, found.missing, len(request.names)) if request.by_row else batch
        fresh = self.inner.signals(part, frozenset(found.lacking), extra)
        with phase("cache"):
            self._take_in(request, found, self._cut(fresh, part, found))
            return self._joined(request, found.rows)

    def lookup(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features | None:
        if not keys or batch.teacher_outputs is not None:
            return None
        with phase("cache"):
            request = self._request(batch, keys, extra)
            return self.store.read(request.names, lambda records: self._whole_answer(request, records))

    def flush(self) -> None:
        self.store.flush()
        self.inner.flush()

    def _request(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None) -> _Request:
        by_row = num_rows(batch.teacher) is not None
        if not by_row:
            self._warn_whole()
        prefix = self._prefix(batch.task, extra)
        names = [hashlib.blake2b(prefix + name, digest_size=16).digest()
                 for name in (row_keys(batch.teacher) if by_row else [_whole_key(batch.teacher)])]
        ordered = tuple(sorted(keys, key=str))
        return _Request(ordered, tuple(map(_key_name, ordered)), names,
                        RowLayout.of(batch.teacher if by_row else None), by_row)

    def _prefix(self, task: str, extra: Mapping[str, Any] | None) -> bytes:
        arguments = sorted((name, _describe(value)) for name, value in (extra or {}).items())
        return f"{VERSION}|{self.inner.fingerprint or self._identity}|{task}|{arguments}|{self.dtype}|".encode()

    def _whole_answer(self, request: _Request, records: Sequence[Record | None]) -> Features | None:
        """What the records hold if they hold everything; nothing more is read once something is missing."""
        rows = []
        for record in records:
            row = _columns(record, request.columns)
            if not all(row):
                return None
            rows.append(row)
        return self._joined(request, rows)

    def _answer(self, request: _Request, records: Sequence[Record | None]) -> Features | _Incomplete:
        """What the records hold; while they are valid, so what is taken of an incomplete answer is copied."""
        rows = [_columns(record, request.columns) for record in records]
        missing = [i for i, row in enumerate(rows) if not all(row)]
        if not missing:
            return self._joined(request, rows)
        lacking = [key for column, key in enumerate(request.keys) if any(not rows[i][column] for i in missing)]
        copies = [[[_copied(values) for values in column] for column in row] for row in rows]
        beside = {i: _others(records[i], request.columns) for i in missing}
        return _Incomplete(copies, missing, lacking, beside)

    def _cut(self, features: Features, batch: Batch, found: _Incomplete) -> list[dict[Key, Row]]:
        """For each missing row, what is to be kept of each key that was lacking."""
        layout = None if num_rows(batch.teacher) is None else RowLayout.of(batch.teacher)
        size = len(found.missing)
        rows: list[dict[Key, Row]] = [{key: [] for key in found.lacking} for _ in range(size)]
        for key in found.lacking:
            for tensor in _expand(features, key):
                has_features = layout is not None and layout.has_features_last(key, tensor.dim())
                for part in kept_form(key, tensor, self.dtype, has_features=has_features):
                    cuts = [Values.of(part)] if layout is None else layout.cut(key, part, size)
                    for row, values in zip(rows, cuts, strict=True):
                        row[key].append(values)
        return rows

    def _take_in(self, request: _Request, found: _Incomplete, fresh: Sequence[Mapping[Key, Row]]) -> None:
        """Put fresh answers into the rows where they were missing, and the rows into the store in one transaction."""
        items = []
        for i, answers in zip(found.missing, fresh, strict=True):
            row = found.rows[i]
            for key, values in answers.items():
                column = request.keys.index(key)
                row[column] = row[column] or values or [Values.of(NOTHING)]
            named = found.beside[i] + [(name, values) for name, column in zip(request.columns, row, strict=True)
                                       for values in column]
            items.append((request.names[i], encode([values for _, values in named], [name for name, _ in named])))
        self.store.put_many(items)

    def _joined(self, request: _Request, rows: Sequence[Sequence[Row]]) -> Features:
        """Tensors of the batch's own padding."""
        features: dict[Key, Tensor] = {}
        for column, key in enumerate(request.keys):
            values = [row[column] for row in rows]
            if len({tuple(part.dtype for part in row) for row in values}) > 1:
                raise OutputError(f"the teacher's {key} is of another type, or of another number of heads, for some "
                                  "rows than for others; switch the cache off")
            parts = [self._part(request, key, [row[number] for row in values])
                     for number in range(0 if _is_nothing(values[0]) else len(values[0]))]
            if self.dtype is torch.int8 and tuple(part.dtype for part in parts) == BYTES_AND_SCALES:
                parts = [restored(*parts)]
            for head, part in enumerate(parts):
                features[Key("logits", head) if key == Key("logits") else key] = part
        return features

    @staticmethod
    def _part(request: _Request, key: Key, rows: Sequence[Values]) -> Tensor:
        return request.layout.joined(key, rows) if request.by_row else _copied(rows[0]).tensor()

    def _warn_whole(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn("these batches cannot be cut into rows (their tensors do not share the first dimension, or "
                          "they hold other values), so whole batches are cached: the cache only serves batches of the "
                          "same composition", stacklevel=4)


@dataclass(frozen=True)
class _Request:
    """What is asked of the store: keys in a fixed order and their names in a record, and the rows' names."""

    keys: tuple[Key, ...]
    columns: tuple[bytes, ...]
    names: list[bytes]
    layout: RowLayout
    by_row: bool


@dataclass(frozen=True)
class _Incomplete:
    """What the store had.

    Attributes:
        rows: by row and key; nothing where it had nothing.
        missing: which rows lack something.
        lacking: which keys any of them lacks.
        beside: what the records of these rows hold under other names.
    """

    rows: list[list[Row]]
    missing: list[int]
    lacking: list[Key]
    beside: Mapping[int, list[tuple[bytes, Values]]]


def _columns(record: Record | None, names: tuple[bytes, ...]) -> list[Row]:
    if record is not None:
        try:
            return columns_of(record, names)
        except CorruptRecordError as error:
            warnings.warn(f"a damaged record of the teacher cache is computed again ({error})", stacklevel=5)
    return [[] for _ in names]


def _others(record: Record | None, names: tuple[bytes, ...]) -> list[tuple[bytes, Values]]:
    """Copies of what a record holds under other names; of a damaged one nothing."""
    try:
        found = [] if record is None else values_of(record)
    except CorruptRecordError:
        return []
    return [(name, _copied(values)) for name, values in found if name not in names]


def _copied(values: Values) -> Values:
    return Values(values.dtype, values.array.copy())


@lru_cache(maxsize=4096)
def _key_name(key: Key) -> bytes:
    return hashlib.blake2b(repr(tuple(key)).encode(), digest_size=NAME_BYTES).digest()


def _whole_key(inputs: Any) -> bytes:
    digest = hashlib.blake2b(_describe(inputs).encode(), digest_size=16)
    for name, tensor in tensors_of(inputs):
        digest.update(name.encode() + bytes_of(tensor))
    return digest.digest()


def _describe(value: Any) -> str:
    """A text that is equal only for equal values; tensors by shape, type and content."""
    if isinstance(value, Tensor):
        content = hashlib.blake2b(bytes_of(value), digest_size=16).hexdigest()
        return f"tensor {value.dtype} {tuple(value.shape)} {content}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_describe(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_describe, value)) + "]"
    if value is None or isinstance(value, (str, bytes, bool, int, float, torch.dtype)):
        return repr(value)
    raise PlanError(f"a {type(value).__name__} among the teacher's inputs has no content that a cache could name; "
                    "leave it out, or switch the cache off")


def _sub_batch(batch: Batch, missing: Sequence[int], total: int) -> Batch:
    if len(missing) == total:
        return batch
    rows = select_rows(batch.teacher, missing)
    return Batch(student=rows, teacher=rows, task=batch.task)


def _expand(features: Features, key: Key) -> list[Tensor]:
    """The tensors behind a key: those of every head for ``Key("logits")``, none if the source gave none."""
    if key != Key("logits"):
        return [features[key]] if key in features else []
    heads = sum(k.kind == "logits" and k.index is not None for k in features)
    return [features[Key("logits", head)] for head in range(heads)]


def _is_nothing(row: Row) -> bool:
    return len(row) == 1 and row[0].dtype == NOTHING.dtype and row[0].array.shape == (0,)
