"""Where cached teacher signals are kept: bytes by key, in memory or on disk.

    base.py         SignalStore, the interface, and its contract
    records.py      tensors to bytes and back, with checksums
    memory.py       MemoryStore, gone when the process ends
    lmdb_store.py   LmdbStore, a crash-safe folder that several processes may share
    write_behind.py WriteBehindStore, in front of another, writes in a thread of its own

A store of your own passes `stillhouse.testing.stores.StoreSuite`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillhouse.teachers.stores.base import CorruptRecordError, SignalStore
from stillhouse.teachers.stores.memory import MemoryStore
from stillhouse.teachers.stores.records import Values, columns_of, decode, encode, record_bytes, values_of
from stillhouse.teachers.stores.write_behind import WriteBehindStore

if TYPE_CHECKING:
    from stillhouse.teachers.stores.lmdb_store import LmdbStore

__all__ = ["CorruptRecordError", "LmdbStore", "MemoryStore", "SignalStore", "Values", "WriteBehindStore", "columns_of",
           "decode", "encode", "record_bytes", "values_of"]


def __getattr__(name: str) -> Any:
    # A run without a cache on disk never loads lmdb.
    if name == "LmdbStore":
        from stillhouse.teachers.stores.lmdb_store import LmdbStore

        return LmdbStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
