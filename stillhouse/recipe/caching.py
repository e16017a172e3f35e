"""Where the teacher's answers are kept in a run, decided and said before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from stillhouse.cache_dirs import cache_dir, signals_dir
from stillhouse.errors import ConfigError
from stillhouse.recipe.cache_size import AnswerSizes
from stillhouse.teachers import CachedTeacher, TeacherSource
from stillhouse.teachers.stores import MemoryStore, SignalStore
from stillhouse.types import Key

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class CachePlan:
    """How the teacher's answers are kept.

    Attributes:
        kind: ``"off"``, ``"memory"`` or ``"disk"``.
        folder: the store's folder on disk.
        dtype: the type in which answers are kept.
        bytes_per_row: an estimate for a row on average.
        total_bytes: the same for all rows.
        reason: why ``auto`` chose so; empty if nothing was chosen.
    """

    kind: str
    folder: Path | None
    dtype: torch.dtype
    bytes_per_row: int
    total_bytes: int
    reason: str = ""

    @property
    def description(self) -> str:
        """One line for people."""
        if self.kind == "off":
            return "teacher cache: off" + self.reason
        where = "in memory" if self.folder is None else f"in {self.folder}"
        dtype = str(self.dtype).removeprefix("torch.")
        return (f"teacher cache: {where}, about {readable_bytes(self.bytes_per_row)} a row, "
                f"{readable_bytes(self.total_bytes)} in all, as {dtype}{self.reason}")

    def wrap(self, source: TeacherSource) -> tuple[TeacherSource, SignalStore | None]:
        """The source with each elementary source behind the cache, and the store to be closed. Raises `StoreError`."""
        if self.kind == "off":
            return source, None
        store = self._store()
        return source.map_leaves(lambda leaf: CachedTeacher(leaf, store, self.dtype)), store

    def _store(self) -> SignalStore:
        if self.folder is None:
            return MemoryStore()
        from stillhouse.teachers.stores import LmdbStore

        return LmdbStore(self.folder)


def plan_cache(
    choice: str,
    dtype_name: str,
    compute_dtype: torch.dtype | None,
    fingerprint: str | None,
    keys: Iterable[Key],
    sizes: AnswerSizes,
    obstacle: str = "",
    has_name: bool = True,
) -> CachePlan:
    """Decide from a recipe's ``cache`` and ``cache_dtype``; nothing is written.

    ``fingerprint`` None: the teacher is not known yet (it is to be fine-tuned), so its folder is not either. ``auto``
    keeps everything on disk if it takes at most half of the free space, else nothing: with the teacher's layers missing
    it would have to run for every row all the same, and the logits alone would save nothing. An ``obstacle`` says why
    answers cannot be kept at all; then anything but ``auto`` and ``off`` raises `ConfigError`. What has no
    name (``has_name``) is kept in memory only.
    """
    dtype = _DTYPES.get(dtype_name, compute_dtype or torch.float32)
    keys = list(keys)
    reason = ""
    if not has_name:
        if choice not in ("auto", "off", "memory"):
            raise ConfigError(f"cache: {choice}: the answers of a function have no name that holds for a later run; "
                              "add version: ... to the teacher, or write cache: memory")
        choice, reason = "memory" if choice == "auto" else choice, ", for the function has no version"
    total = sizes.total_bytes(keys, dtype, on_disk=choice not in ("off", "memory"))
    per_row = round(total / max(1, len(sizes.lengths)))
    if obstacle and choice not in ("off", "auto"):
        raise ConfigError(f"cache: {choice}: the teacher's answers cannot be kept, for {obstacle}; write off")
    if choice == "off" or obstacle or not keys:
        reason = ", for nothing is asked of the teacher" if not keys else f", for {obstacle}" if obstacle else ""
        return CachePlan("off", None, dtype, per_row, total, reason)
    if choice == "memory":
        return CachePlan("memory", None, dtype, per_row, total, reason)
    if choice != "auto":
        folder = Path(choice).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"cache: {choice} is a file; write auto, off, memory or a folder")
        return CachePlan("disk", folder, dtype, per_row, total)
    folder = cache_dir() / "signals" if fingerprint is None else signals_dir(fingerprint)
    missing = max(0, total - _size_of(folder / "data.mdb"))
    free = shutil.disk_usage(_existing(folder)).free
    if missing > free / 2:
        reason = (f", for it would take {readable_bytes(missing)} and {folder} has {readable_bytes(free)} free; "
                  "free some space, or name a folder with more as cache: FOLDER")
        return CachePlan("off", None, dtype, per_row, total, reason)
    return CachePlan("disk", folder, dtype, per_row, total)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def readable_bytes(count: float) -> str:
    """A number of bytes for people: ``3.4 MB`` (powers of 1000)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
