"""Tensors to bytes and back: a small header, raw little-endian values and a checksum. Never pickle.

    bytes     content
    4         the magic "SHRC"
    4         format version
    4         crc32 of everything behind it
    4         number of tensors
    each tensor: 1 dtype code, 1 number of dimensions, 6 zero, then 8 for each dimension
    each tensor: its values in row-major order, filled up with zeros to a multiple of 8

All integers are unsigned and little-endian. The values begin at multiples of 8, so that they can be used in place.
"""

from __future__ import annotations

import math
import struct
import sys
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.errors import StoreError
from stillhouse.teachers.stores.base import CorruptRecordError

assert sys.byteorder == "little", "records hold little-endian values as they lie in memory"

_MAGIC = b"SHRC"
_VERSION = 1
_PREFIX = struct.Struct("<4sII")
_COUNT = struct.Struct("<I")
_TENSOR = struct.Struct("<BB6x")
_BODY_START = _PREFIX.size + _COUNT.size

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


def encode(tensors: Sequence[Tensor]) -> bytes:
    """One record of one or more dense tensors of any shape and device. Gradients are not kept.

    Raises `StoreError` for no tensors at all, or a dtype other than float64, float32, float16, bfloat16, int64, int32,
    int16, int8, uint8 and bool.
    """
    if not tensors:
        raise StoreError("a record of no tensors: give at least one")
    header = bytearray(_BODY_START)
    _COUNT.pack_into(header, _PREFIX.size, len(tensors))
    for tensor in tensors:
        code = _CODES.get(tensor.dtype)
        if code is None:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _CODES)
            raise StoreError(f"a tensor of {tensor.dtype} cannot be stored: convert it to one of {allowed}")
        header += _TENSOR.pack(code, tensor.dim()) + struct.pack(f"<{tensor.dim()}Q", *tensor.shape)
    record = bytearray(len(header) + sum(_padded(tensor.numel() * tensor.element_size()) for tensor in tensors))
    record[: len(header)] = header
    offset = len(header)
    for tensor in tensors:
        if tensor.numel():
            place = torch.frombuffer(record, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
            place.view(tensor.shape).copy_(tensor.detach())
        offset += _padded(tensor.numel() * tensor.element_size())
    _PREFIX.pack_into(record, 0, _MAGIC, _VERSION, _checksum(record))
    return bytes(record)


def record_bytes(shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> int:
    """The length of a record of tensors of these shapes and one type."""
    values = sum(_padded(math.prod(shape) * dtype.itemsize) for shape in shapes)
    return _BODY_START + sum(_TENSOR.size + 8 * len(shape) for shape in shapes) + values


def decode(data: bytes | memoryview) -> list[Tensor]:
    """The tensors of a record, on the CPU, bit for bit and writable; they share one block of memory, never ``data``'s.

    Raises `CorruptRecordError` if the record is cut off, altered or of another format version.
    """
    record = bytearray(data)
    if len(record) < _BODY_START:
        raise CorruptRecordError(f"a record of {len(record)} bytes is cut off: a whole one has more than {_BODY_START}")
    magic, version, checksum = _PREFIX.unpack_from(record)
    if magic != _MAGIC or version != _VERSION:
        raise CorruptRecordError(
            f"a record begins with {bytes(record[:8])!r}, not {_MAGIC!r} and version {_VERSION}: compute it again"
        )
    if checksum != _checksum(record):
        raise CorruptRecordError(f"a record of {len(record)} bytes fails its checksum: compute it again")
    try:
        return _tensors(record)
    except (struct.error, KeyError, ValueError, TypeError, RuntimeError) as error:  # torch's own, for absurd shapes
        raise CorruptRecordError(f"a record of {len(record)} bytes has a wrong header: compute it again") from error


def _tensors(record: bytearray) -> list[Tensor]:
    (num_tensors,) = _COUNT.unpack_from(record, _PREFIX.size)
    offset = _BODY_START
    specs: list[tuple[torch.dtype, tuple[int, ...]]] = []
    for _ in range(num_tensors):
        code, num_dims = _TENSOR.unpack_from(record, offset)
        offset += _TENSOR.size
        specs.append((_DTYPES[code], struct.unpack_from(f"<{num_dims}Q", record, offset)))
        offset += 8 * num_dims
    if offset + sum(_padded(math.prod(shape) * dtype.itemsize) for dtype, shape in specs) != len(record):
        raise ValueError("its shapes do not add up to its length")
    tensors: list[Tensor] = []
    for dtype, shape in specs:
        count = math.prod(shape)
        if count:
            tensors.append(torch.frombuffer(record, dtype=dtype, count=count, offset=offset).view(shape))
        else:
            tensors.append(torch.empty(shape, dtype=dtype))
        offset += _padded(count * dtype.itemsize)
    return tensors


def _checksum(record: bytearray) -> int:
    return zlib.crc32(memoryview(record)[_PREFIX.size :])


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // 8) * 8
