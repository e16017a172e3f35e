"""A read-through cache around any source: a row's answer is computed once, ever."""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from stillhouse.batches import bytes_of, num_rows, row_keys, select_rows, spans, tensors_of
from stillhouse.errors import OutputError, PlanError
from stillhouse.teachers.base import TeacherSource
from stillhouse.teachers.stores import CorruptRecordError, SignalStore, decode, encode
from stillhouse.types import ATTENTION_SCORES, Batch, Features, Key

Row = list[Tensor]  # the tensors of one row for one key: one, or one for each logits head
LOWEST_SCORE = -1e4  # what models add to the scores of padding
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
        ordered = sorted(keys, key=str)
        by_row = num_rows(batch.teacher) is not None
        if not by_row:
            self._warn_whole()
        names = row_keys(batch.teacher) if by_row else [_whole_key(batch.teacher)]
        prefix = self._prefix(batch.task, extra)
        wanted = [[_record_key(prefix, name, key) for key in ordered] for name in names]
        rows = self._read(wanted)
        missing = [i for i, row in enumerate(rows) if any(value is None for value in row)]
        if missing:
            lacking = [key for column, key in enumerate(ordered) if any(rows[i][column] is None for i in missing)]
            part = _sub_batch(batch, missing, len(rows)) if by_row else batch
            fresh = _split(self.inner.signals(part, frozenset(lacking), extra), part, lacking, len(missing), by_row)
            self._write(fresh, missing, rows, wanted, ordered, lacking)
        return _assemble(rows, batch, ordered, by_row)

    def _prefix(self, task: str, extra: Mapping[str, Any] | None) -> bytes:
        arguments = sorted((name, _describe(value)) for name, value in (extra or {}).items())
        return f"{self.inner.fingerprint or self._identity}|{task}|{arguments}|{self.dtype}".encode()

    def _read(self, wanted: Sequence[Sequence[bytes]]) -> list[list[Row | None]]:
        records = iter(self.store.get_many([key for row in wanted for key in row]))
        return [[self._decoded(next(records)) for _ in row] for row in wanted]

    def _decoded(self, record: bytes | None) -> Row | None:
        if record is None:
            return None
        try:
            return decode(record)
        except CorruptRecordError as error:
            warnings.warn(f"a damaged record of the teacher cache is computed again ({error})", stacklevel=4)
            return None

    def _write(
        self,
        fresh: Sequence[Sequence[Row]],
        missing: Sequence[int],
        rows: list[list[Row | None]],
        wanted: Sequence[Sequence[bytes]],
        ordered: Sequence[Key],
        lacking: Sequence[Key],
    ) -> None:
        """Put fresh answers into ``rows`` where they were missing, and into the store in one transaction."""
        columns = [ordered.index(key) for key in lacking]
        items = []
        for i, values in zip(missing, fresh, strict=True):
            for column, value in zip(columns, values, strict=True):
                if rows[i][column] is None:
                    stored = [self._stored(tensor) for tensor in value] or [NOTHING]
                    rows[i][column] = stored
                    items.append((wanted[i][column], encode(stored)))
        self.store.put_many(items)

    def _stored(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        return tensor.to(self.dtype) if self.dtype is not None and tensor.is_floating_point() else tensor

    def _warn_whole(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn("these batches cannot be cut into rows (their tensors do not share the first dimension, or "
                          "they hold other values), so whole batches are cached: the cache only serves batches of the "
                          "same composition", stacklevel=4)


def _record_key(prefix: bytes, name: bytes, key: Key) -> bytes:
    return hashlib.blake2b(prefix + b"|" + name + b"|" + repr(tuple(key)).encode(), digest_size=16).digest()


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


@dataclass(frozen=True)
class _Layout:
    """How the values of a batch's rows lie along its positions.

    Attributes:
        row_spans: the positions of each row that are no padding; None if nothing tells padding.
        length: how many positions there are, with padding.
        choices: how many texts a row has; 0 for one. All but logits have a value for each text.
        has_spans: whether logits are one number a position, as for the start and the end of an answer.
    """

    row_spans: list[slice] | None
    length: int = 0
    choices: int = 0
    has_spans: bool = False

    @classmethod
    def of(cls, inputs: Any) -> _Layout:
        row_spans = spans(inputs)
        if row_spans is None:
            return cls(None)
        mask, ids = inputs["attention_mask"], inputs.get("input_ids")
        has_choices = mask.dim() == 3 and ids is not None and ids.shape == mask.shape
        return cls(row_spans, mask.shape[-1], mask.shape[1] if has_choices else 0, "span_mask" in inputs)

    def of_choices(self, key: Key) -> bool:
        """Whether a row's value is one for each of its choices."""
        return self.choices > 0 and key.kind != "logits"

    def axes(self, key: Key, row_dim: int) -> tuple[int, ...]:
        """The axes of one row's value that run over positions."""
        if self.row_spans is None:
            return ()
        if key.kind.startswith("attention"):
            return (row_dim - 2, row_dim - 1)
        if key.kind == "logits" and self.has_spans:
            return (row_dim - 1,)
        return (row_dim - 2,) if row_dim == (3 if self.of_choices(key) else 2) else ()


def _split(features: Features, batch: Batch, keys: Sequence[Key], size: int, by_row: bool) -> list[list[Row]]:
    """For each row, for each key, the row's tensors without padding."""
    tensors = [_expand(features, key) for key in keys]
    if not by_row:
        return [[list(values) for values in tensors]]
    layout = _Layout.of(batch.teacher)
    columns = [[_in_rows(key, value, layout, size) for value in values]
               for key, values in zip(keys, tensors, strict=True)]
    return [[[_trim(value[i], key, layout, i) for value in values] for key, values in zip(keys, columns, strict=True)]
            for i in range(size)]


def _in_rows(key: Key, value: Tensor, layout: _Layout, size: int) -> Tensor:
    """A value with one entry a row, its choices along the second axis. Raises `OutputError`."""
    num_texts = size * layout.choices if layout.of_choices(key) else size
    fits = value.dim() > 0 and value.shape[0] == num_texts
    if fits and layout.of_choices(key):
        value = value.unflatten(0, (size, layout.choices))
    if not fits or any(value.shape[axis + 1] != layout.length for axis in layout.axes(key, value.dim() - 1)):
        raise OutputError(f"the teacher's {key} of shape {tuple(value.shape)} cannot be cached row by row: it should "
                          f"start with {num_texts} rows and cover {layout.length or 'all'} positions; switch the cache "
                          "off")
    return value


def _trim(row: Tensor, key: Key, layout: _Layout, index: int) -> Tensor:
    if layout.row_spans is not None:
        span = layout.row_spans[index]
        for axis in layout.axes(key, row.dim()):
            row = row.narrow(axis, span.start, span.stop - span.start)
    return row


def _assemble(rows: Sequence[Sequence[Row | None]], batch: Batch, keys: Sequence[Key], by_row: bool) -> Features:
    """Tensors of the batch's own padding, with zeros (no attention, no answer) where it pads."""
    layout = _Layout.of(batch.teacher if by_row else None)
    features: dict[Key, Tensor] = {}
    for column, key in enumerate(keys):
        values = [row[column] or [] for row in rows]
        for head in range(0 if _is_nothing(values[0]) else len(values[0])):
            name = Key("logits", head) if key == Key("logits") else key
            tensors = [value[head] for value in values]
            if by_row:
                padded = _padded(tensors, key, layout)
                features[name] = padded.flatten(0, 1) if layout.of_choices(key) else padded
            else:
                features[name] = tensors[0]
    return features


def _is_nothing(row: Row) -> bool:
    return len(row) == 1 and row[0].dtype == NOTHING.dtype and row[0].shape == NOTHING.shape


def _padded(tensors: Sequence[Tensor], key: Key, layout: _Layout) -> Tensor:
    axes = layout.axes(key, tensors[0].dim())
    if layout.row_spans is None or not axes:
        if len({tensor.shape for tensor in tensors}) > 1:
            shapes = ", ".join(sorted({str(tuple(tensor.shape)) for tensor in tensors}))
            raise OutputError(f"the teacher's {key} has other shapes in batches of other padding ({shapes} a row), so "
                              "its rows cannot be put together again; switch the cache off, or pad every batch to one "
                              "length")
        return torch.stack(list(tensors))
    shape = list(tensors[0].shape)
    for axis in axes:
        shape[axis] = layout.length
    padding = LOWEST_SCORE if key.kind == ATTENTION_SCORES else 0.0
    if key.kind == "logits" and layout.has_spans:
        padding = -torch.inf
    full = tensors[0].new_full([len(tensors), *shape], padding)
    for target, tensor, span in zip(full, tensors, layout.row_spans, strict=True):
        target[tuple(span if axis in axes else slice(None) for axis in range(len(shape)))] = tensor
    return full
