"""Where what can be computed again is kept: teacher signals and fine-tuned teachers, below one folder of the user's."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_dir() -> Path:
    """``$STILLHOUSE_CACHE``, else ``$XDG_CACHE_HOME/stillhouse``, else ``~/.cache/stillhouse``; it may not exist."""
    own = os.environ.get("STILLHOUSE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stillhouse"


def signals_dir(fingerprint: str) -> Path:
    """The folder of one teacher's stored answers; ``fingerprint`` is any text that identifies the teacher."""
    return cache_dir() / "signals" / hashlib.blake2b(fingerprint.encode(), digest_size=16).hexdigest()


def teachers_dir() -> Path:
    """The folder of fine-tuned teachers, one folder each."""
    return cache_dir() / "teachers"
