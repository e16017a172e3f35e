"""Deleting what has not been used for long, or does not fit, and never what a running process has open."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence

from stillhouse.cache_care.items import Item
from stillhouse.cache_dirs import MOVED_ASIDE
from stillhouse.errors import StoreError


def chosen(items: Sequence[Item], now_s: float, older_than_s: float | None, max_bytes: int | None) -> list[Item]:
    """What is to go, the least recently used first.

    That is what was last used more than ``older_than_s`` seconds before ``now_s``, then as much more as it takes for
    the rest to fit into ``max_bytes``. What is left half written goes a day after it was touched last, and never
    earlier: someone may be writing it.
    """
    by_use = sorted(items, key=lambda item: item.last_use_s)
    going = [item for item in by_use if _is_past(item, now_s, older_than_s)]
    staying = [item for item in by_use if item not in going]
    total = sum(item.size_bytes for item in staying)
    for item in staying:
        if max_bytes is not None and total > max_bytes and item.goes_for_room:
            going.append(item)
            total -= item.size_bytes
    return going


def remove(item: Item) -> bool:
    """Delete it, unless a process has it open: then False. Raises `StoreError` if it cannot be deleted."""
    aside = item.folder.with_name(f"{MOVED_ASIDE}{uuid.uuid4().hex}")
    try:
        # Moved while nobody can open it, deleted in peace: whoever comes meanwhile finds nothing, not a half of it.
        with item.unused() as is_unused:
            if not is_unused:
                return False
            os.replace(item.folder, aside)
        aside.unlink() if aside.is_file() else shutil.rmtree(aside)
    except FileNotFoundError:
        return True  # another process was faster
    except OSError as error:
        raise StoreError(f"{item.folder} cannot be deleted: {error}; look who owns it, or which program has it open "
                         "(a run of stillhouse, on Windows)") from error
    return True


def _is_past(item: Item, now_s: float, older_than_s: float | None) -> bool:
    limit_s = older_than_s if item.own_limit_s is None else item.own_limit_s
    return limit_s is not None and now_s - item.last_use_s > limit_s
