"""Where the teacher's answers are kept in a run, decided and said before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stillhouse.cache_dirs import SIGNALS, STORE_FILE, cache_dir, free_bytes, signals_dir
from stillhouse.cache_use import note_use
from stillhouse.errors import ConfigError
from stillhouse.recipe.asking_again import Asking
from stillhouse.recipe.cache_size import AnswerSizes
from stillhouse.teachers import CachedTeacher, TeacherSource
from stillhouse.teachers.stores import MemoryStore, SignalStore, WriteBehindStore
from stillhouse.types import Key
from stillhouse.units import parse_bytes, readable_bytes

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}


@dataclass(frozen=True)
class CacheWish:
    """What a recipe says of the cache: its ``cache``, ``cache_dtype`` and ``cache_budget``."""

    choice: str = "auto"
    dtype_name: str = "auto"
    budget: str | None = None

    @property
    def budget_bytes(self) -> int | None:
        """The budget; None if there is none."""
        return None if self.budget is None else parse_bytes(self.budget)

    @property
    def is_automatic(self) -> bool:
        """Whether to go without a cache where it does not fit, instead of refusing to run."""
        return self.choice == "auto"

    def dtype(self, compute_dtype: torch.dtype | None) -> torch.dtype:
        """The type to keep answers in, if it fits: the one that the teacher computes in if the recipe names none."""
        return _DTYPES.get(self.dtype_name, compute_dtype or torch.float32)


@dataclass(frozen=True)
class CachePlan:
    """How the teacher's answers are kept.

    Attributes:
        kind: ``"off"``, ``"memory"`` or ``"disk"``.
        folder: the store's folder on disk.
        dtype: the type in which answers are kept; for int8 see `stillhouse.teachers.kept_forms`.
        bytes_per_row: an estimate for a row on average.
        total_bytes: the same for all rows.
        reason: why ``auto`` chose so; empty if nothing was chosen.
        budget_bytes: the most that they may take; None: nothing was said.
        about: whose answers they are, for people who look at the folder later.
    """

    kind: str
    folder: Path | None
    dtype: torch.dtype
    bytes_per_row: int
    total_bytes: int
    reason: str = ""
    budget_bytes: int | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """One line for people."""
        if self.kind == "off":
            return "teacher cache: off" + self.reason
        where = "in memory" if self.folder is None else f"in {self.folder}"
        budget = "" if self.budget_bytes is None else f" of a budget of {readable_bytes(self.budget_bytes)}"
        return (f"teacher cache: {where}, about {readable_bytes(self.bytes_per_row)} a row, "
                f"{readable_bytes(self.total_bytes)} in all{budget}, as {_name(self.dtype)}{self.reason}")

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

        store = WriteBehindStore(LmdbStore(self.folder))
        note_use(self.folder, {**self.about, "dtype": _name(self.dtype)})
        return store


def plan_cache(
    wish: CacheWish,
    compute_dtype: torch.dtype | None,
    fingerprint: str | None,
    keys: Iterable[Key],
    sizes: AnswerSizes,
    *,
    obstacle: str = "",
    has_name: bool = True,
    asking: Asking | None = None,
    about: Mapping[str, str] | None = None,
) -> CachePlan:
    """Decide from what a recipe says; nothing is written.

    ``fingerprint`` None: the teacher is not known yet (it is to be fine-tuned), so its folder is not either. ``auto``
    keeps everything within the budget, and on disk if it takes at most half of the free space, else nothing: with the
    teacher's layers missing it would have to run for every row all the same, and the logits alone would save nothing.
    Where float32 is over the budget and the recipe names no type, bfloat16 is tried. Only a budget decides that, never
    the free space: what a student learns must not depend on how full a disk is. With ``asking``, ``auto`` keeps nothing
    where to ask again takes less time than to keep and read.

    An ``obstacle`` says why answers cannot be kept at all; then anything but ``auto`` and ``off`` raises `ConfigError`,
    as it does if the answers are over the budget. What has no name (``has_name``) is kept in memory only.
    """
    keys, reason, choice = list(keys), "", wish.choice
    if not has_name:
        if choice not in ("auto", "off", "memory"):
            raise ConfigError(f"cache: {choice}: the answers of a function have no name that holds for a later run; "
                              "add version: ... to the teacher, or write cache: memory")
        choice, reason = "memory" if choice == "auto" else choice, ", for the function has no version"
    if obstacle and choice not in ("off", "auto"):
        raise ConfigError(f"cache: {wish.choice}: the teacher's answers cannot be kept, for {obstacle}; write off")
    need = _Need(keys, sizes, on_disk=choice not in ("off", "memory"))
    dtype, num_rows = wish.dtype(compute_dtype), max(1, len(sizes.lengths))

    def planned(kind: str, folder: Path | None, reason: str) -> CachePlan:
        return CachePlan(kind, folder, dtype, round(need.bytes_as(dtype) / num_rows),
                         need.bytes_as(dtype), reason, wish.budget_bytes, about or {})

    if choice == "off" or obstacle or not keys:
        return planned("off", None, ", for nothing is asked of the teacher" if not keys else
                       f", for {obstacle}" if obstacle else "")
    over = _over_budget(wish, need, dtype)
    if over:
        if not wish.is_automatic:
            raise ConfigError(f"cache_budget: {over}")
        smaller = _instead(wish, need, dtype)
        if smaller is None:
            return planned("off", None, f", for {over}")
        reason = (f", for as {_name(dtype)} they would take {readable_bytes(need.bytes_as(dtype))} and the budget is "
                  f"{readable_bytes(wish.budget_bytes or 0)}{reason}")
        dtype = smaller
    if choice == "memory":
        return planned("memory", None, reason)
    if wish.is_automatic and asking is not None and asking.is_faster_than_reading(need.bytes_as(dtype) / num_rows):
        return planned("off", None, ", for this GPU answers again sooner than that much is read, by an estimate "
                                    "(docs/cache.md); to keep the answers, name a folder")
    folder = _folder(choice, fingerprint)
    lacking = _lack_of_space(folder, need, dtype) if wish.is_automatic else ""
    return planned("off", None, lacking) if lacking else planned("disk", folder, reason)


@dataclass(frozen=True)
class _Need:
    """What the answers take in each type."""

    keys: list[Key]
    sizes: AnswerSizes
    on_disk: bool

    def bytes_as(self, dtype: torch.dtype) -> int:
        return self.sizes.total_bytes(self.keys, dtype, on_disk=self.on_disk)

    def smaller_types(self, dtype: torch.dtype, limit_bytes: float) -> list[str]:
        """What to write as ``cache_dtype`` that would fit, with the room that it takes."""
        names = [name for name in ("int8", "bf16") if _DTYPES[name].itemsize < dtype.itemsize]
        by_size = {self.bytes_as(_DTYPES[name]): name for name in names}  # of two that take the same, the exacter one
        return [f"cache_dtype: {name} ({readable_bytes(size)})" for size, name in sorted(by_size.items(), reverse=True)
                if size <= limit_bytes]

    @property
    def fewer_layers(self) -> list[str]:
        """The remedy of asking for less, if that is possible."""
        has_layers = any(key.kind not in ("logits", "embedding") for key in self.keys)
        return ["fewer layers in distillation.matches"] if has_layers else []


def _over_budget(wish: CacheWish, need: _Need, dtype: torch.dtype) -> str:
    """Why the answers cannot be kept in this type, and what to do; empty if they can."""
    budget_bytes, size = wish.budget_bytes, need.bytes_as(dtype)
    if budget_bytes is None or size <= budget_bytes:
        return ""
    remedies = [*need.smaller_types(dtype, budget_bytes), *need.fewer_layers, "a larger budget"]
    return (f"the answers would take {readable_bytes(size)} as {_name(dtype)} and the budget is "
            f"{readable_bytes(budget_bytes)}; write {', or '.join(remedies)}")


def _instead(wish: CacheWish, need: _Need, dtype: torch.dtype) -> torch.dtype | None:
    """The type that fits in place of one that does not, where the recipe leaves the choice."""
    smaller = torch.bfloat16
    is_free = wish.dtype_name == "auto" and dtype.itemsize > smaller.itemsize
    return smaller if is_free and need.bytes_as(smaller) <= (wish.budget_bytes or 0) else None


def _folder(choice: str, fingerprint: str | None) -> Path:
    """Raises `ConfigError` for a file."""
    if choice == "auto":
        return cache_dir() / SIGNALS if fingerprint is None else signals_dir(fingerprint)
    folder = Path(choice).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"cache: {choice} is a file; write auto, off, memory or a folder")
    return folder


def _lack_of_space(folder: Path, need: _Need, dtype: torch.dtype) -> str:
    """Why the disk is too small, and what to do; empty if it is not."""
    stored = _size_of(folder / STORE_FILE)
    missing = max(0, need.bytes_as(dtype) - stored)
    free = free_bytes(folder)
    if missing <= free / 2:
        return ""
    remedies = ["free some space (stillhouse cache prune)", "name a folder with more as cache: FOLDER",
                *(f"write {one}" for one in (*need.smaller_types(dtype, stored + free / 2), *need.fewer_layers))]
    return (f", for it would take {readable_bytes(missing)} and {folder} has {readable_bytes(free)} free, of which "
            f"half may be used; {', or '.join(remedies)}")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
