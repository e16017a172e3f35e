"""What this process holds in memory, as the system counts it."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_mb() -> int:
    """The most that was resident since this program began.

    Not what ``getrusage`` says, which on Linux begins with the peak of the process that started this one.
    """
    return _status_mb("VmHWM:") or round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def anonymous_mb() -> int | None:
    """Memory without pages of files, which the system takes back when it needs them; None where it cannot tell."""
    return _status_mb("RssAnon:")


def _status_mb(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith(name)), None)
