"""A store that lives and dies with the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import ClassVar, final

from stillhouse.errors import StoreError
from stillhouse.teachers.stores.base import Record, Result, SignalStore, check_keys


@final
class MemoryStore(SignalStore):
    """Records in a dictionary.

    >>> with MemoryStore() as store:
    ...     store.put_many([(b"row 1", b"signal")])
    ...     store.get_many([b"row 1", b"row 2"])
    [b'signal', None]
    """

    persistent: ClassVar[bool] = False

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self._size_bytes = 0
        self._closed = False
        self._lock = threading.Lock()

    def read(self, keys: Sequence[bytes], use: Callable[[list[Record | None]], Result]) -> Result:
        """The records themselves: bytes cannot change."""
        check_keys(keys)
        with self._lock:
            self._check_open()
            records: list[Record | None] = [self._records.get(key) for key in keys]
        return use(records)

    def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """One update of the dictionary under the lock."""
        # Copies, so that a caller's buffer that changes later does not change the record.
        records = {bytes(key): bytes(record) for key, record in items}
        check_keys(records)
        with self._lock:
            self._check_open()
            for key, record in records.items():
                old = self._records.get(key)
                self._size_bytes += len(record) + len(key) if old is None else len(record) - len(old)
            self._records.update(records)

    def __len__(self) -> int:
        with self._lock:
            self._check_open()
            return len(self._records)

    def size_bytes(self) -> int:
        """The length of all keys and records."""
        with self._lock:
            self._check_open()
            return self._size_bytes

    def close(self) -> None:
        """Forget the records."""
        with self._lock:
            self._closed = True
            self._records = {}

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("this memory store is closed: use it inside its `with` block, or make another")
