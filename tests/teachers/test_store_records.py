"""Records hold tensors bit for bit, and tell when they were harmed."""

from __future__ import annotations

import struct

import pytest
import torch
import xxhash

from stillhouse.errors import StoreError
from stillhouse.teachers.stores import (
    CorruptRecordError,
    Values,
    columns_of,
    decode,
    encode,
    record_bytes,
    values_of,
)

INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,), (2, 3, 7)], ids=str)
def test_every_dtype_and_shape_survives_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    num_bytes = torch.Size(shape).numel() * dtype.itemsize
    noise = torch.randint(0, 256, (num_bytes,), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    before = (noise > 127).view(shape) if dtype is torch.bool else noise.view(dtype).view(shape)
    (after,) = decode(encode([before]))
    assert (after.dtype, after.shape) == (dtype, before.shape)
    assert after.reshape(-1).view(torch.uint8).equal(before.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool], ids=str)
@pytest.mark.parametrize("shapes", [[()], [(3, 0)], [(5,), (5,)], [(2, 3, 7), ()]], ids=str)
def test_the_length_of_a_record_is_known_before_it_is_made(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    zeros = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    assert record_bytes([(shape, dtype) for shape in shapes]) == len(encode(zeros))


def test_special_floats_keep_their_bits() -> None:
    bits = torch.tensor([0x7FC1, 0xFFC0, 0x7F80, 0xFF80, 0x8000, 0x0001, 0x3F80], dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):  # NaN payloads, infinities, minus zero, a denormal, one
        (after,) = decode(encode([bits.view(dtype)]))
        assert after.view(torch.int16).equal(bits)


def whole(layout: bytes, checksums: list[int], values: bytes = b"", count: int | None = None) -> bytes:
    """A record as the module's documentation says."""
    header = layout + struct.pack(f"<{len(checksums)}Q", *checksums)
    count = len(checksums) if count is None else count
    return struct.pack("<4sIII", b"SHRC", 3, xxhash.xxh3_64_intdigest(header) % 2**32, count) + header + values


def test_the_format_is_the_documented_one() -> None:
    layout = struct.pack("<8sBB6xQQ", b"whole...", 7, 2, 1, 3) + struct.pack("<8sBB6x", b"half....", 2, 0)
    numbers, half = struct.pack("<3h2x", 1, -2, 300), struct.pack("<f4x", 0.5)
    record = whole(layout, [xxhash.xxh3_64_intdigest(numbers), xxhash.xxh3_64_intdigest(half)],
                   numbers + half)
    tensors = [torch.tensor([[1, -2, 300]], dtype=torch.int16), torch.tensor(0.5)]
    assert encode(tensors, [b"whole...", b"half...."]) == record
    assert all(a.equal(b) for a, b in zip(decode(record), tensors, strict=True))


def test_what_is_not_asked_for_is_not_looked_at() -> None:
    names = [b"head....", b"layer...", b"head...."]
    record = bytearray(encode([torch.ones(2), torch.arange(50), torch.zeros(3)], names))
    heads, absent, layer = columns_of(bytes(record), (b"head....", b"nothing.", b"layer..."))
    assert [values.tensor().tolist() for values in map(copied, heads)] == [[1, 1], [0, 0, 0]] and absent == []
    assert copied(layer[0]).tensor().equal(torch.arange(50))
    record[record.index(torch.arange(50).numpy().tobytes()) + 80] ^= 1
    assert len(columns_of(bytes(record), (b"head....",))[0]) == 2
    with pytest.raises(CorruptRecordError, match="compute it again"):
        columns_of(bytes(record), (b"layer...",))
    with pytest.raises(CorruptRecordError, match="compute it again"):
        values_of(bytes(record))


def copied(values: Values) -> Values:
    return Values(values.dtype, values.array.copy())


def test_strided_and_differentiable_tensors_are_stored_by_value() -> None:
    base = torch.arange(24.0).view(2, 3, 4).requires_grad_()
    views = [base.transpose(0, 2), base[:, 1], base[0, 0, 0].expand(5)]
    for before, after in zip(views, decode(encode(views)), strict=True):
        assert after.equal(before) and not after.requires_grad


def test_decoded_tensors_do_not_share_memory_with_the_record() -> None:
    buffer = bytearray(encode([torch.arange(4), torch.ones(3, dtype=torch.bfloat16)]))
    counts, ones = decode(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    counts += 1
    assert counts.tolist() == [1, 2, 3, 4] and ones.tolist() == [1, 1, 1]


def test_every_cut_and_every_flipped_byte_is_detected() -> None:
    record = encode([torch.arange(5, dtype=torch.int16), torch.tensor(2.0), torch.tensor([True, False])])
    for length in range(len(record)):
        with pytest.raises(CorruptRecordError):
            decode(record[:length])
    for position in range(len(record)):
        broken = bytearray(record)
        broken[position] ^= 0x10
        with pytest.raises(CorruptRecordError):
            decode(bytes(broken))
    with pytest.raises(CorruptRecordError):
        decode(record + bytes(8))


@pytest.mark.parametrize("record", [
    whole(b"", [], count=1),
    whole(b"", []),
    whole(struct.pack("<8sBB6xQ", b"", 99, 1, 0), [0]),
    whole(struct.pack("<8sBB6xQ", b"", 2, 1, 1 << 60), [0]),
    whole(struct.pack("<8sBB6xQQ", b"", 2, 2, 1 << 63, 1 << 63), [0]),
    whole(struct.pack("<8sBB6xQQ", b"", 2, 2, 1 << 63, 0), [0]),
    whole(b"", [], count=0xFFFFFFFF),
])
def test_a_wrong_header_under_a_right_checksum_is_detected(record: bytes) -> None:
    with pytest.raises(CorruptRecordError, match="compute it again"):
        decode(record)


def test_what_cannot_be_stored_is_refused_with_the_remedy() -> None:
    with pytest.raises(StoreError, match=r"complex64.*convert it to one of .*bfloat16"):
        encode([torch.zeros(2, dtype=torch.complex64)])
    with pytest.raises(StoreError, match="at least one"):
        encode([])
