"""What a cache folder is for and when it was used, noted beside its content for people who look after the cache.

A note is a small JSON file, ``about-HASH.json``; its time of change is the last use. Notes of several teachers, tasks
and types may stand in one folder, and processes that write the same one write the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_held: dict[Path, int] = {}


def note_use(folder: Path, about: Mapping[str, str]) -> None:
    """Note that ``folder``, which exists, is used now, and what for. Warns if it cannot be written."""
    text = json.dumps(dict(about), sort_keys=True, indent=1)
    note = folder / f"about-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.json"
    try:
        if not note.exists():
            aside = folder / f".{note.name}.{uuid.uuid4().hex}"
            aside.write_text(text + "\n", encoding="utf-8")
            os.replace(aside, note)
        os.utime(note)
    except OSError as error:
        warnings.warn(f"the use of {folder} cannot be noted ({error}), so `stillhouse cache prune` may take it for "
                      "unused", stacklevel=2)


def notes(folder: Path) -> list[dict[str, str]]:
    """What the folder is used for, the last use first. Notes that cannot be read are left out."""
    found = []
    for path in sorted(folder.glob("about-*.json"), key=_changed_s, reverse=True):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            about = json.loads(path.read_text(encoding="utf-8"))
            found.append({str(name): str(value) for name, value in about.items()})
    return found


def last_use_s(folder: Path, content: Path) -> float:
    """When it was used last, in seconds since 1970: by its notes, or by the change of its content if it has none."""
    return max([_changed_s(path) for path in folder.glob("about-*.json")] or [_changed_s(content)])


def hold(path: Path) -> None:
    """Note that the file ``path`` is used now, and keep it from `unheld` in every process until this one ends."""
    with contextlib.suppress(OSError):  # of another user's cache, which is read all the same
        os.utime(path)
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            before = _held.get(path)  # what had this name before, and may have been deleted and made again
            _held[path] = descriptor
            if before is not None:
                os.close(before)


@contextlib.contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Whether no process holds the file; if so, none can begin to inside. On Windows nothing is known: always True."""
    if sys.platform == "win32":
        yield True
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
