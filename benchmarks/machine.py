"""What a measurement was made on: hardware, versions, commit. A figure without them means nothing."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("transformers", "tokenizers", "accelerate", "numpy", "lmdb")
REPOSITORY = Path(__file__).resolve().parent.parent


def describe() -> dict[str, Any]:
    """The machine as plain values for a result's JSON."""
    from stillhouse import __version__
    from stillhouse.training.precision import has_fast_bf16, resolve_device

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "fast_bf16": has_fast_bf16(resolve_device("auto")),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {"stillhouse": __version__, "torch": torch.__version__, **_versions()},
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def one_line(machine: dict[str, Any]) -> str:
    """The same for a table's caption."""
    parts = [*machine["gpus"], machine["cpu"], f"{machine['cores']} cores", f"{machine['threads']} threads",
             f"{machine['memory_gb']} GB", "bf16 in hardware" if machine["fast_bf16"] else "no bf16 in hardware",
             f"torch {machine['versions']['torch']}", f"commit {machine['commit']}"]
    return ", ".join(parts)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def _commit() -> str:
    """The short hash, with ``+changes`` where files of the package differ from it; ``unknown`` outside a checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True,
                              check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "stillhouse") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
