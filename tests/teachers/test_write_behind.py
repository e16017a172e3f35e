"""A store that writes in the background loses nothing, hides nothing and says when it fails."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from stillhouse.errors import StoreError
from stillhouse.teachers.stores import LmdbStore, MemoryStore, SignalStore, WriteBehindStore
from stillhouse.teachers.stores.base import Record, Result
from stillhouse.testing.stores import StoreSuite


class TestWriteBehindStore(StoreSuite):
    def make_store(self, tmp_path: Path) -> SignalStore:
        return WriteBehindStore(LmdbStore(tmp_path / "store"))

    def reopen(self, store: SignalStore, tmp_path: Path) -> SignalStore:
        store.close()
        return self.make_store(tmp_path)


class SlowStore(SignalStore):
    """Keeps every call of `put_many`, and waits in each until it may go on; fails if told to."""

    persistent: ClassVar[bool] = True

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.calls: list[dict[bytes, bytes]] = []
        self.may_go_on = threading.Event()
        self.begun = threading.Event()
        self.fails = False

    def read(self, keys: Sequence[bytes], use: Callable[[list[Record | None]], Result]) -> Result:
        return self.inner.read(keys, use)

    def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        self.begun.set()
        assert self.may_go_on.wait(20)
        if self.fails:
            raise StoreError("the disk is full: free some space")
        self.calls.append(dict(items))
        self.inner.put_many(items)

    def __len__(self) -> int:
        return len(self.inner)

    def size_bytes(self) -> int:
        return self.inner.size_bytes()

    def close(self) -> None:
        self.inner.close()


def test_putting_does_not_wait_for_the_disk_and_what_came_meanwhile_is_one_transaction() -> None:
    slow = SlowStore()
    store = WriteBehindStore(slow)
    store.put_many([(b"a", b"1")])
    assert slow.begun.wait(20)
    store.put_many([(b"b", b"2")])
    store.put_many([(b"c", b"3"), (b"b", b"newer")])
    assert slow.calls == []
    assert store.get_many([b"a", b"b", b"c", b"d"]) == [b"1", b"newer", b"3", None]
    slow.may_go_on.set()
    store.flush()
    assert slow.calls[0] == {b"a": b"1"} and len(slow.calls) <= 3
    assert slow.inner.get_many([b"a", b"b", b"c"]) == [b"1", b"newer", b"3"]
    store.close()


def test_a_record_put_again_while_it_is_written_is_written_again() -> None:
    slow = SlowStore()
    with WriteBehindStore(slow) as store:
        store.put_many([(b"a", b"old")])
        assert slow.begun.wait(20)
        store.put_many([(b"a", b"new")])
        slow.may_go_on.set()
        store.flush()
        assert slow.calls == [{b"a": b"old"}, {b"a": b"new"}]
        assert store.get_many([b"a"]) == [b"new"]


def test_what_waits_is_bounded() -> None:
    slow = SlowStore()
    store = WriteBehindStore(slow, waiting_bytes=100)
    store.put_many([(b"a", bytes(101))])
    put = threading.Thread(target=store.put_many, args=([(b"b", b"2")],))
    put.start()
    put.join(0.2)
    assert put.is_alive(), "there was no room"
    slow.may_go_on.set()
    put.join(20)
    assert not put.is_alive()
    store.close()


@pytest.mark.parametrize("last", ["put_many", "flush", "close"])
def test_a_failure_to_write_is_raised_by_the_next_call(last: str) -> None:
    slow = SlowStore()
    slow.fails = True
    store = WriteBehindStore(slow)
    store.put_many([(b"a", b"1")])
    slow.may_go_on.set()
    store._writer.join(20)
    calls: dict[str, Callable[[], None]] = {"put_many": lambda: store.put_many([(b"b", b"2")]), "flush": store.flush,
                                            "close": store.close}
    with pytest.raises(StoreError, match="disk is full: free some space"):
        calls[last]()
    with contextlib.suppress(StoreError):
        store.close()


def test_whatever_stops_the_writer_stops_nobody_else() -> None:
    slow = SlowStore()
    store = WriteBehindStore(slow, waiting_bytes=10)
    store.put_many([(b"a", bytes(20))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slow, "inner", None)
        slow.may_go_on.set()
        store._writer.join(20)
    for call in (lambda: store.put_many([(b"b", b"2")]), store.flush, store.close):
        with pytest.raises(StoreError, match=r"could not be written.*NoneType"):
            call()
    store.close()


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    store = WriteBehindStore(LmdbStore(tmp_path))
    for i in range(50):
        store.put_many([(b"%d" % i, bytes(1000))])
    store.close()
    with LmdbStore(tmp_path) as again:
        assert len(again) == 50
