"""Columns of texts, or of lists of texts, held in one block of memory: a fifth of what Python's strings take."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar, final, overload

import numpy as np

from stillhouse.batches import Array

STRETCH = 4096
"""So many values of a column are looked at, and packed, together."""

_ENCODING = ("utf-8", "surrogatepass")  # half a character is the reader's to complain of, not ours

Value = TypeVar("Value")


class _Packed(Sequence[Value], Generic[Value]):
    """What both columns share: slices are lists, and a column equals any sequence of the same values. Abstract."""

    @overload
    def __getitem__(self, row: int) -> Value: ...
    @overload
    def __getitem__(self, row: slice) -> list[Value]: ...
    def __getitem__(self, row: int | slice) -> Value | list[Value]:
        if isinstance(row, slice):
            return [self._at(place) for place in range(*row.indices(len(self)))]
        return self._at(range(len(self))[row])

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Sequence) and len(other) == len(self)
                and all(ours == theirs for ours, theirs in zip(self, other, strict=True)))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    @abc.abstractmethod
    def _at(self, row: int) -> Value:
        """The value of a row, counted from 0."""


@final
class Texts(_Packed[str]):
    """A sequence of texts that cannot be changed. A text that equals the one before it takes no room of its own."""

    def __init__(self, texts: Iterable[str]) -> None:
        content, starts, ends = bytearray(), [], []
        before: str | None = None
        for text in texts:
            if text != before:
                starts.append(len(content))
                content += text.encode(*_ENCODING)
                ends.append(len(content))
                before = text
            else:
                starts.append(starts[-1])
                ends.append(ends[-1])
        self.content = bytes(content)
        self.starts, self.ends = np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64)

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of one after those of another."""
        whole = cls(())
        offsets = np.cumsum([0, *(len(part.content) for part in parts)])
        whole.content = b"".join(part.content for part in parts)
        whole.starts = _concatenated([part.starts + offset for part, offset in zip(parts, offsets, strict=False)])
        whole.ends = _concatenated([part.ends + offset for part, offset in zip(parts, offsets, strict=False)])
        return whole

    def __len__(self) -> int:
        return len(self.ends)

    def _at(self, row: int) -> str:
        return self.content[self.starts[row] : self.ends[row]].decode(*_ENCODING)


@final
class TextLists(_Packed["list[str]"]):
    """A sequence of lists of texts that cannot be changed."""

    def __init__(self, rows: Iterable[Sequence[str]]) -> None:
        rows = list(rows)
        self.texts = Texts(chain.from_iterable(rows))
        self.ends: Array = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)).cumsum()

    @classmethod
    def joined(cls, parts: Sequence[TextLists]) -> TextLists:
        """The lists of one after those of another."""
        whole = cls(())
        whole.texts = Texts.joined([part.texts for part in parts])
        offsets = np.cumsum([0, *(len(part.texts) for part in parts)])
        whole.ends = _concatenated([part.ends + offset for part, offset in zip(parts, offsets, strict=False)])
        return whole

    def __len__(self) -> int:
        return len(self.ends)

    def _at(self, row: int) -> list[str]:
        return self.texts[int(self.ends[row - 1]) if row else 0 : int(self.ends[row])]


def packed(values: Iterable[Any]) -> Sequence[Any]:
    """The values of a column, packed if all are texts, or all are lists of texts; else a list of them."""
    if isinstance(values, _Packed):
        return values
    column = Column()
    for value in values:
        column.append(value)
    return column.values()


@final
class Column:
    """A column that grows value by value, packed stretch by stretch."""

    def __init__(self, missing: int = 0) -> None:
        self._kind: type[Texts] | type[TextLists] | None = None
        self._packed: list[Any] = []
        self._loose: list[Any] = [None] * missing
        self._is_loose = False

    def __len__(self) -> int:
        return sum(map(len, self._packed)) + len(self._loose)

    def append(self, value: Any) -> None:
        """Add a value behind the others."""
        self._loose.append(value)
        if len(self._loose) >= STRETCH and not self._is_loose:
            self._pack()

    def values(self) -> Sequence[Any]:
        """All values, packed or a list."""
        if not self._is_loose and self._loose:
            self._pack()
        if self._is_loose or self._kind is None:
            return self._loose
        kind: Any = self._kind
        whole: Sequence[Any] = kind.joined(self._packed)
        return whole

    def _pack(self) -> None:
        kind = _kind(self._loose)
        if kind is not None and self._kind in (None, kind):
            self._kind = kind
            self._packed.append(kind(self._loose))
            self._loose = []
            return
        self._is_loose = True
        self._loose = [value for part in self._packed for value in part] + self._loose
        self._packed = []


def _kind(values: Sequence[Any]) -> type[Texts] | type[TextLists] | None:
    """How these values can be packed. A tuple, or a subclass of str, would come back as something else."""
    if all(type(value) is str for value in values):
        return Texts
    if all(type(value) is list and all(type(item) is str for item in value) for value in values):
        return TextLists
    return None


def _concatenated(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
