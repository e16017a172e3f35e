"""The conformance suite of signal stores.

Subclass `StoreSuite` in a test file of your own; pytest then runs every promise of `SignalStore` on your store:

    from stillhouse.testing.stores import StoreSuite

    class TestMyStore(StoreSuite):
        def make_store(self, tmp_path):
            return MyStore(tmp_path / "signals")

        def reopen(self, store, tmp_path):
            store.close()
            return MyStore(tmp_path / "signals")
"""


from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillhouse.errors import StoreError
from stillhouse.teachers.stores import SignalStore, decode, encode
from stillhouse.teachers.stores.base import MAX_KEY_BYTES


class StoreSuite(ABC):
    """What every `SignalStore` must hold. ``tmp_path`` is pytest's: an empty folder for each test."""

    @abstractmethod
    def make_store(self, tmp_path: Path) -> SignalStore:
        """A new, empty store. Anything it writes goes below ``tmp_path``."""

    @abstractmethod
    def reopen(self, store: SignalStore, tmp_path: Path) -> SignalStore:
        """Close ``store`` and give a new one over the same records. Only called for persistent stores."""

    def test_records_come_back_in_the_order_of_the_keys(self, tmp_path: Path) -> None:
        records = {bytes([i]) * 16: bytes([i]) * (i * 37) for i in range(40)}
        with self.make_store(tmp_path) as store:
            store.put_many(list(records.items()))
            keys = [*reversed(records), bytes([7]) * 16, bytes([7]) * 16]
            assert store.get_many(keys) == [records[key] for key in keys]

    def test_missing_keys_are_none(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            assert store.get_many([b"absent"]) == [None]
            store.put_many([(b"a", b"1"), (b"c", b"3")])
            assert store.get_many([b"a", b"b", b"c", b"ab"]) == [b"1", None, b"3", None]

    def test_an_empty_record_is_not_a_missing_one(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.put_many([(b"key", b"")])
            assert store.get_many([b"key"]) == [b""]

    def test_any_bytes_and_key_lengths_are_kept(self, tmp_path: Path) -> None:
        records = {
            b"\x00": bytes(range(256)),
            b"\x00\x00": b"\x00" * 5,
            b"\xff" * 32: b"\xff" * 4095,
            b"k" * MAX_KEY_BYTES: bytes(range(256)) * 4096,
        }
        with self.make_store(tmp_path) as store:
            store.put_many(list(records.items()))
            assert store.get_many(list(records)) == list(records.values())

    def test_nothing_asked_or_put_is_allowed(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.put_many([])
            assert store.get_many([]) == []
            assert len(store) == 0

    def test_existing_keys_are_overwritten(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.put_many([(b"a", b"old" * 1000), (b"b", b"stays")])
            store.put_many([(b"a", b"new"), (b"c", b"added")])
            assert store.get_many([b"a", b"b", b"c"]) == [b"new", b"stays", b"added"]
            assert len(store) == 3

    def test_the_last_of_equal_keys_wins(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.put_many([(b"a", b"2"), (b"b", b"0"), (b"a", b"1")])
            assert store.get_many([b"a"]) == [b"1"]
            assert len(store) == 2

    @pytest.mark.parametrize("bad_key", [b"", b"k" * (MAX_KEY_BYTES + 1)], ids=["empty", "too long"])
    def test_a_refused_put_writes_nothing(self, tmp_path: Path, bad_key: bytes) -> None:
        with self.make_store(tmp_path) as store:
            store.put_many([(b"a", b"old")])
            with pytest.raises(StoreError, match=f"{len(bad_key)} bytes"):
                store.put_many([(b"a", b"new"), (b"b", b"1"), (bad_key, b"2"), (b"z", b"3")])
            with pytest.raises(StoreError, match=f"{len(bad_key)} bytes"):
                store.get_many([bad_key])
            assert store.get_many([b"a", b"b", b"z"]) == [b"old", None, None]
            assert len(store) == 1

    def test_results_outlive_later_writes_and_the_store(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.put_many([(b"a", b"first" * 1000)])
            (found,) = store.get_many([b"a"])
            store.put_many([(b"a", b"other" * 1000)])
        assert found is not None and bytes(found) == b"first" * 1000

    def test_size_counts_the_records(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            empty = store.size_bytes()
            store.put_many([(bytes([i]) * 20, bytes(10_000)) for i in range(50)])
            grown = store.size_bytes() - empty
            assert 50 * 10_000 <= grown <= 2 * 50 * 10_000
            store.put_many([(bytes([i]) * 20, bytes(10_000)) for i in range(50)])
            assert store.size_bytes() - empty <= 4 * 50 * 10_000

    def test_a_closed_store_refuses_everything_but_close(self, tmp_path: Path) -> None:
        with self.make_store(tmp_path) as store:
            store.put_many([(b"a", b"1")])
        store.close()
        uses: list[Callable[[], object]] = [
            lambda: store.get_many([b"a"]),
            lambda: store.put_many([(b"a", b"2")]),
            lambda: len(store),
            store.size_bytes,
        ]
        for use in uses:
            with pytest.raises(StoreError, match="closed"):
                use()

    def test_signals_of_every_dtype_are_kept_bit_for_bit(self, tmp_path: Path) -> None:
        noise = torch.randint(0, 256, (2, 3, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
        dtypes += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
        signals = [noise.view(dtype) for dtype in dtypes] + [noise > 99, torch.tensor(1.5), torch.empty(0, 4)]
        with self.make_store(tmp_path) as store:
            store.put_many([(b"row", encode(signals))])
            (record,) = store.get_many([b"row"])
        assert record is not None
        for before, after in zip(signals, decode(record), strict=True):
            assert (after.dtype, after.shape) == (before.dtype, before.shape)
            assert after.reshape(-1).view(torch.uint8).equal(before.reshape(-1).view(torch.uint8))

    def test_threads_never_see_half_a_put(self, tmp_path: Path) -> None:
        keys = [i.to_bytes(16, "big") for i in range(300)]
        torn: list[set[bytes | None]] = []
        with self.make_store(tmp_path) as store:
            store.put_many([(key, b"0") for key in keys])
            done = threading.Event()

            def read() -> None:
                while not done.is_set():
                    seen = set(store.get_many(keys))
                    if len(seen) != 1:
                        torn.append(seen)

            readers = [threading.Thread(target=read) for _ in range(2)]
            interval_s = sys.getswitchinterval()
            sys.setswitchinterval(1e-6)  # threads take turns in the middle of everything
            try:
                for reader in readers:
                    reader.start()
                for stamp in range(1, 60):
                    store.put_many([(key, str(stamp).encode()) for key in keys])
            finally:
                done.set()
                for reader in readers:
                    reader.join()
                sys.setswitchinterval(interval_s)
            assert store.get_many(keys) == [b"59"] * len(keys)
        assert not torn

    def test_a_persistent_store_remembers(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        if not store.persistent:
            store.close()
            pytest.skip("this store does not promise to outlive the process")
        records = {bytes([i]) * 16: bytes([i]) * 3000 for i in range(30)}
        store.put_many(list(records.items()))
        with self.reopen(store, tmp_path) as again:
            assert again.get_many(list(records)) == list(records.values())
            assert len(again) == 30
            again.put_many([(b"later", b"1")])
            assert again.get_many([b"later"]) == [b"1"]
