"""The interface of a store of teacher signals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from stillhouse.errors import StoreError

if TYPE_CHECKING:
    from typing_extensions import Self

Result = TypeVar("Result")
Record = bytes | memoryview

MAX_KEY_BYTES = 511
"""The longest key that every store takes; keys are usually digests of 16 to 32 bytes."""


class CorruptRecordError(StoreError):
    """A record is cut off, altered or of another format. Whoever wrote it can compute and write it again."""


class SignalStore(ABC):
    """Keeps records (bytes) by key (1 to 511 bytes). Records are opaque: see `records.encode` for their inside.

    **Atomicity.** `put_many` writes all of its items or none, also when the process is killed in the middle of it. A
    `read` sees each `put_many` wholly or not at all.

    **Concurrency.** One store object may be used from several threads. A persistent store may be open in several
    processes and, more than once, in one process; a record written by one is seen by every `read` that begins
    later. A store inherited by a forked process works there too.

    **Durability.** When `put_many` of a persistent store returns, its items are in the files and survive the death of
    the process. After a power cut the newest `put_many` calls may be missing, as a whole; nothing is half there.

    **Corruption.** A store hands out the bytes it has; `records.decode` tells whether they are what was written and
    raises `CorruptRecordError` if not. A store that cannot be opened, read or written raises `StoreError` with the
    remedy.

    **Ownership.** What `read` hands out is valid inside the call alone and may lie in the store's own memory; what
    `get_many` returns is a copy.

    **Closing.** `close` may be called twice; everything else raises `StoreError` once closed. A store is a context
    manager that closes itself. An empty store is falsy, as any empty container: test ``store is None``, not
    ``not store``.

    An implementation is final and passes `stillhouse.testing.stores.StoreSuite`.
    """

    persistent: ClassVar[bool]
    """Whether the records outlive the process."""

    @abstractmethod
    def read(self, keys: Sequence[bytes], use: Callable[[list[Record | None]], Result]) -> Result:
        """What ``use`` makes of the record of each key, in the order of ``keys``, None where there is none.

        ``use`` must not call the store. Raises `StoreError`, and what ``use`` raises.
        """

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Copies of the records. Raises `StoreError`."""
        return self.read(keys, lambda records: [None if record is None else bytes(record) for record in records])

    @abstractmethod
    def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Write (key, record) pairs in one transaction. Existing keys are overwritten; the last of equal keys wins.

        Raises `StoreError`, and then nothing was written.
        """

    def flush(self) -> None:  # noqa: B027 - most stores have written when `put_many` returns
        """Return when all that was put is written. Raises `StoreError`."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of records."""

    @abstractmethod
    def size_bytes(self) -> int:
        """The memory or disk that the records and the store's own index take, in bytes."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the store holds. A store in memory forgets its records."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_keys(keys: Iterable[bytes]) -> None:
    """Raise `StoreError` for a key that some store could not take, so that all stores refuse the same ones."""
    for key in keys:
        if not 1 <= len(key) <= MAX_KEY_BYTES:
            raise StoreError(f"a key of {len(key)} bytes: keys have 1 to {MAX_KEY_BYTES}; use a digest")
