"""Every record of a store against its checksum."""

from __future__ import annotations

from dataclasses import dataclass

from stillhouse.cache_care.items import Item
from stillhouse.errors import StoreError
from stillhouse.teachers.stores import CorruptRecordError, LmdbStore, values_of

_AT_A_TIME_BYTES = 1 << 25


@dataclass(frozen=True)
class Finding:
    """What was found in a store.

    Attributes:
        num_records: how many were read, the damaged ones among them.
        num_damaged: those that are not what was written.
        num_deleted: of these, the ones that were removed.
        problem: why reading ended before the end; empty if it did not.
    """

    num_records: int
    num_damaged: int
    num_deleted: int
    problem: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was wrong."""
        return not self.num_damaged and not self.problem


def check(item: Item, *, delete: bool = False) -> Finding:
    """Read a store from one end to the other, about 32 MB at a time, beside the runs that use it.

    With ``delete``, damaged records are removed, so that they are computed again.
    """
    num_records = num_damaged = num_deleted = 0
    try:
        with LmdbStore(item.folder) as store:
            last = b""
            while pairs := store.records_after(last, _AT_A_TIME_BYTES):
                damaged = [key for key, record in pairs if not _is_sound(record)]
                num_records, num_damaged, last = num_records + len(pairs), num_damaged + len(damaged), pairs[-1][0]
                if delete and damaged:
                    store.delete_many(damaged)
                    num_deleted += len(damaged)
    except StoreError as error:
        return Finding(num_records, num_damaged, num_deleted, str(error))
    return Finding(num_records, num_damaged, num_deleted)


def _is_sound(record: bytes) -> bool:
    try:
        values_of(record)
    except CorruptRecordError:
        return False
    return True
