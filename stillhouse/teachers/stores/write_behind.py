"""A store that writes in a thread of its own, so that whoever gives it records does not wait for the disk."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar, final

from stillhouse.errors import StoreError
from stillhouse.teachers.stores.base import Record, Result, SignalStore, check_keys

DEFAULT_WAITING_BYTES = 64 << 20


@final
class WriteBehindStore(SignalStore):
    """Stands in front of a persistent store. Records are found at once, and written as soon as the disk has time.

    What came while the disk was busy is written in one transaction. `put_many` waits only while more than
    ``waiting_bytes`` are still to be written. A failure to write is raised by the next `put_many`, `flush` or `close`.
    A program that ends without closing it closes it then.
    Two promises of `SignalStore` are weaker: what is not yet written is lost if the process is killed (whole calls of
    `put_many`, the newest; `flush` and `close` write everything), and other processes see it only once it is written.
    A forked process must not use it.
    """

    persistent: ClassVar[bool] = True

    def __init__(self, inner: SignalStore, *, waiting_bytes: int = DEFAULT_WAITING_BYTES) -> None:
        self._inner, self._limit_bytes = inner, waiting_bytes
        self._changed = threading.Condition()
        self._waiting: dict[bytes, bytes] = {}
        self._waiting_bytes = 0
        self._failure: StoreError | None = None
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="stillhouse-cache-writer", daemon=True)
        self._writer.start()
        atexit.register(self.close)  # the thread keeps the store alive until then

    def read(self, keys: Sequence[bytes], use: Callable[[list[Record | None]], Result]) -> Result:
        """What waits to be written comes first: it is the newest."""
        check_keys(keys)
        with self._changed:
            self._check_open()
            waiting = [self._waiting.get(key) for key in keys] if self._waiting else None
        if waiting is None:
            return self._inner.read(keys, use)
        return self._inner.read(keys, lambda records: use(
            [stored if newer is None else newer for newer, stored in zip(waiting, records, strict=True)]))

    def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Take the records, after waiting for room."""
        check_keys(key for key, _ in items)
        with self._changed:
            self._check_open()
            while self._waiting_bytes > self._limit_bytes and self._failure is None:
                self._changed.wait()
            self._raise_failure()
            self._add({bytes(key): bytes(record) for key, record in items})
            self._changed.notify_all()

    def flush(self) -> None:
        """Return when all is written. Raises `StoreError`."""
        with self._changed:
            while self._waiting and self._failure is None:
                self._changed.wait()
            self._raise_failure()

    def __len__(self) -> int:
        self.flush()
        return len(self._inner)

    def size_bytes(self) -> int:
        """What the store behind takes, with all that waited."""
        self.flush()
        return self._inner.size_bytes()

    def close(self) -> None:
        """Write what waits, and close the store behind."""
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._writer.join()
        self._inner.close()
        with self._changed:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                batch = dict(self._waiting)
            if not batch:
                return
            try:
                self._inner.put_many(list(batch.items()))
            except BaseException as error:  # whoever waits for this thread would wait for ever
                with self._changed:
                    self._failure = error if isinstance(error, StoreError) else StoreError(
                        f"the teacher's answers could not be written: {error!r}")
                    self._changed.notify_all()
                return
            with self._changed:
                self._remove(batch)
                self._changed.notify_all()

    def _add(self, records: dict[bytes, bytes]) -> None:
        for key, record in records.items():
            old = self._waiting.get(key)
            self._waiting_bytes += len(record) - (0 if old is None else len(old))
            self._waiting[key] = record

    def _remove(self, written: dict[bytes, bytes]) -> None:
        for key, record in written.items():
            if self._waiting.get(key) is record:  # and not a newer one
                self._waiting_bytes -= len(self._waiting.pop(key))

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("this store is closed: open it again to use it")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
