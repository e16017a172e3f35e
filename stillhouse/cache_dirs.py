"""Where what can be computed again is kept: teacher signals and fine-tuned teachers, below one folder of the user's.

    signals/HASH/data.mdb        the stored answers of one teacher
    teachers/HASH/teacher.json   what is known of a fine-tuned teacher, beside its weights
    given/data, given/models     what users of Python gave as objects, for the recipes that name it
    .../.writing-*, .pruned-*    what a process is writing or deleting, or was when it was killed

HASH is of all that the content depends on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

SIGNALS, TEACHERS, GIVEN = "signals", "teachers", "given"
STORE_FILE, TEACHER_FILE = "data.mdb", "teacher.json"
BEING_WRITTEN, MOVED_ASIDE = ".writing-", ".pruned-"


def cache_dir() -> Path:
    """``$STILLHOUSE_CACHE``, else ``$XDG_CACHE_HOME/stillhouse``, else ``~/.cache/stillhouse``; it may not exist."""
    own = os.environ.get("STILLHOUSE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stillhouse"


def signals_dir(fingerprint: str) -> Path:
    """The folder of one teacher's stored answers; ``fingerprint`` is any text that identifies the teacher."""
    return cache_dir() / SIGNALS / hashlib.blake2b(fingerprint.encode(), digest_size=16).hexdigest()


def teachers_dir() -> Path:
    """The folder of fine-tuned teachers, one folder each."""
    return cache_dir() / TEACHERS


def given_dir() -> Path:
    """The folder of data and models that were given as objects; absolute, for recipes name what is in it."""
    return cache_dir().absolute() / GIVEN


def folder_bytes(folder: Path) -> int:
    """The size of a file, or of the files of a folder that are still there when their turn comes."""
    if not folder.is_dir():
        return _file_bytes(folder)
    return sum(_file_bytes(Path(parent) / name) for parent, _, names in os.walk(folder) for name in names)


def _file_bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # another process has removed it
        return 0


def free_bytes(folder: Path) -> int:
    """What the disk has free where ``folder`` is, or would be made."""
    return shutil.disk_usage(next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())).free
