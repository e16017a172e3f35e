"""Tensors to bytes and back: a header, raw little-endian values and checksums. Never pickle.

A record holds all that is kept of one row, each tensor under a name of 8 bytes, which may repeat. What is not asked for
is not touched, and what is asked for is copied once, to where it is needed.

    bytes     content
    4         the magic "SHRC"
    4         format version
    4         the lower half of xxh3-64 of the layout and the checksums behind it
    4         number of tensors
    the layout, for each tensor: 8 its name, 1 dtype code, 1 number of dimensions, 6 zero, 8 for each dimension
    the checksums, for each tensor: 8 xxh3-64 of its values, zeros behind them included
    the values of each tensor in row-major order, filled up with zeros to a multiple of 8

All integers are unsigned and little-endian. The values begin at multiples of 8, so that they can be used in place.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from stillhouse.batches import Array, as_array
from stillhouse.errors import StoreError
from stillhouse.teachers.stores.base import CorruptRecordError, Record

assert sys.byteorder == "little", "records hold little-endian values as they lie in memory"

VERSION = 3
"""Of the format; what names a record should hold it, so that records of another version are never met."""

NAME_BYTES = 8
UNNAMED = bytes(NAME_BYTES)

_MAGIC = b"SHRC"
_PREFIX = struct.Struct("<4sIII")
_TENSOR = struct.Struct("<8sBB6x")
_CHECKSUM_BYTES = 8
_HEADER_MASK = 0xFFFFFFFF

# The codes are part of the format: add to them, never renumber.
_CODES: dict[torch.dtype, int] = {
    torch.float64: 1,
    torch.float32: 2,
    torch.float16: 3,
    torch.bfloat16: 4,
    torch.int64: 5,
    torch.int32: 6,
    torch.int16: 7,
    torch.int8: 8,
    torch.uint8: 9,
    torch.bool: 10,
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_NUMPY = {dtype: as_array(torch.empty(0, dtype=dtype)).dtype for dtype in _CODES}


class Values(NamedTuple):
    """A tensor as numpy can hold it: its type, and its values (of bfloat16, their 16 bits each)."""

    dtype: torch.dtype
    array: Array

    @classmethod
    def of(cls, tensor: Tensor) -> Values:
        """Those of a tensor, shared where it is on the CPU."""
        return cls(tensor.dtype, as_array(tensor))

    def tensor(self) -> Tensor:
        """The tensor, of the same memory. The array must be writable."""
        if not self.array.size:
            return torch.empty(self.array.shape, dtype=self.dtype)
        return torch.from_numpy(self.array).view(self.dtype)


def encode(tensors: Sequence[Tensor | Values], names: Sequence[bytes] | None = None) -> bytes:
    """One record of one or more dense tensors of any shape and device, each with a name. Gradients are not kept.

    Raises `StoreError` for no tensors at all, or a dtype other than float64, float32, float16, bfloat16, int64, int32,
    int16, int8, uint8 and bool.
    """
    if not tensors:
        raise StoreError("a record of no tensors: give at least one")
    layout, checksums = [], []
    values: list[memoryview | bytes] = []
    for name, tensor in zip(names or [UNNAMED] * len(tensors), tensors, strict=True):
        code = _CODES.get(tensor.dtype)
        if code is None:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _CODES)
            raise StoreError(f"a tensor of {tensor.dtype} cannot be stored: convert it to one of {allowed}")
        array = tensor.array if isinstance(tensor, Values) else as_array(tensor)
        shape = array.shape  # which the next line makes (1,) of ()
        array = np.ascontiguousarray(array)
        layout.append(_TENSOR.pack(name, code, len(shape)) + struct.pack(f"<{len(shape)}Q", *shape))
        padded: list[memoryview | bytes] = [array.data, bytes(_padded(array.nbytes) - array.nbytes)]
        checksums.append(_checksum(padded))
        values += padded
    header = b"".join(layout) + struct.pack(f"<{len(checksums)}Q", *checksums)
    prefix = _PREFIX.pack(_MAGIC, VERSION, xxhash.xxh3_64_intdigest(header) & _HEADER_MASK, len(tensors))
    return b"".join([prefix, header, *values])


def record_bytes(shapes: Sequence[tuple[Sequence[int], torch.dtype]]) -> int:
    """The length of a record of tensors of these shapes and types."""
    return _PREFIX.size + sum(
        _TENSOR.size + 8 * len(shape) + _CHECKSUM_BYTES + _padded(math.prod(shape) * dtype.itemsize)
        for shape, dtype in shapes)


def decode(record: Record) -> list[Tensor]:
    """The tensors of a record, on the CPU, bit for bit and writable; copies.

    Raises `CorruptRecordError` if the record is cut off, altered or of another format version.
    """
    return [Values(values.dtype, values.array.copy()).tensor() for _, values in values_of(record)]


def values_of(record: Record) -> list[tuple[bytes, Values]]:
    """Names and values of all tensors where they lie in a record: they cannot be written, and live as long as it.

    Raises `CorruptRecordError` if the record is cut off, altered or of another format version.
    """
    return [(place.name, _checked(record, place)) for place in _places(record)]


def columns_of(record: Record, names: tuple[bytes, ...]) -> list[list[Values]]:
    """The values under each of the names, none where there are none; only these are read and checked.

    Raises `CorruptRecordError` if they, or the header, are not what was written.
    """
    columns: list[list[Values]] = [[] for _ in names]
    for place in _places(record):
        if place.name in names:
            columns[names.index(place.name)].append(_checked(record, place))
    return columns


class _Place(NamedTuple):
    """Where one tensor of a record is."""

    name: bytes
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int
    checksum_start: int


def _checked(record: Record, place: _Place) -> Values:
    stored = int.from_bytes(record[place.checksum_start : place.checksum_start + _CHECKSUM_BYTES], "little")
    if xxhash.xxh3_64_intdigest(memoryview(record)[place.start : _padded(place.end)]) != stored:
        raise CorruptRecordError(f"a record of {len(record)} bytes fails a checksum: compute it again")
    return Values(place.dtype, np.ndarray(place.shape, _NUMPY[place.dtype], record, place.start))


def _places(record: Record) -> tuple[_Place, ...]:
    if len(record) < _PREFIX.size:
        raise CorruptRecordError(f"a record of {len(record)} bytes is cut off: a whole one has more than "
                                 f"{_PREFIX.size}")
    magic, version, checksum, num_tensors = _PREFIX.unpack_from(record)
    if magic != _MAGIC or version != VERSION:
        raise CorruptRecordError(
            f"a record begins with {bytes(record[:8])!r}, not {_MAGIC!r} and version {VERSION}: compute it again"
        )
    try:
        end = _PREFIX.size
        for _ in range(num_tensors):
            end += _TENSOR.size + 8 * record[end + NAME_BYTES + 1]
        header_end = end + _CHECKSUM_BYTES * num_tensors
        header = bytes(record[_PREFIX.size : header_end])
        if xxhash.xxh3_64_intdigest(header) & _HEADER_MASK != checksum:
            raise CorruptRecordError(f"the header of a record of {len(record)} bytes fails its checksum: compute it "
                                     "again")
        places = _parsed(header[: end - _PREFIX.size], num_tensors)
    except (struct.error, IndexError, KeyError, OverflowError) as error:  # of absurd numbers
        raise CorruptRecordError(f"a record of {len(record)} bytes has a wrong header: compute it again") from error
    length = _padded(places[-1].end) if places else -1
    if length != len(record):
        raise CorruptRecordError(f"a record of {len(record)} bytes should have {length}: compute it again")
    return places


def _checksum(parts: Sequence[memoryview | bytes]) -> int:
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return digest.intdigest()


@lru_cache(maxsize=4096)  # rows of one length have one layout
def _parsed(layout: bytes, num_tensors: int) -> tuple[_Place, ...]:
    checksum = _PREFIX.size + len(layout)
    start = checksum + _CHECKSUM_BYTES * num_tensors
    offset, places = 0, []
    for _ in range(num_tensors):
        name, code, num_dims = _TENSOR.unpack_from(layout, offset)
        shape = struct.unpack_from(f"<{num_dims}Q", layout, offset + _TENSOR.size)
        dtype = _DTYPES[code]
        end = start + math.prod(shape) * dtype.itemsize
        places.append(_Place(name, dtype, shape, start, end, checksum))
        offset, checksum, start = offset + _TENSOR.size + 8 * num_dims, checksum + _CHECKSUM_BYTES, _padded(end)
    return tuple(places)


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // 8) * 8
