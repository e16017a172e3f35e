"""What lies in a cache folder: stores of answers, fine-tuned teachers, what Python's users gave, leftovers.

Each answers for itself how it is looked after; nothing else in the room asks which of them it is.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar, final

from stillhouse.cache_dirs import (
    BEING_WRITTEN,
    GIVEN,
    MOVED_ASIDE,
    SIGNALS,
    STORE_FILE,
    TEACHER_FILE,
    TEACHERS,
    cache_dir,
    folder_bytes,
)
from stillhouse.cache_use import last_use_s, notes, unheld
from stillhouse.errors import ConfigError, StoreError


@dataclass(frozen=True)
class Count:
    """How many records something holds.

    Attributes:
        records: the number; None if it holds none by its nature, or if they cannot be counted.
        problem: why they cannot be; empty if they can.
    """

    records: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class Item(abc.ABC):
    """One folder of a cache, or one file. Abstract.

    Attributes:
        folder: its path.
        about: what it is for, the last use first; empty if nobody noted it.
        size_bytes: of its files.
        last_use_s: in seconds since 1970.
    """

    folder: Path
    about: tuple[str, ...]
    size_bytes: int
    last_use_s: float

    kind: ClassVar[str]
    """What it is, in a word for people."""
    if_not_noted: ClassVar[str] = "not noted"
    """What is said where `about` is empty."""
    advice: ClassVar[str] = ""
    """What whoever sees one should know; empty if nothing."""
    has_records: ClassVar[bool] = False
    """Whether it holds records that can be checked."""
    own_limit_s: ClassVar[float | None] = None
    """How long after its last use it goes; None: that is for whoever prunes to say."""
    goes_for_room: ClassVar[bool] = True
    """Whether it may go only because all does not fit."""

    @abc.abstractmethod
    def count(self) -> Count:
        """How many records it holds."""

    @abc.abstractmethod
    def unused(self) -> AbstractContextManager[bool]:
        """Whether no process has it open; if so, none can open it inside. Raises `OSError`."""


@final
@dataclass(frozen=True)
class Store(Item):
    """A store of teachers' answers."""

    kind = "answers"
    has_records = True

    def count(self) -> Count:
        from stillhouse.teachers.stores import LmdbStore  # heavy, and for nothing where no answers are kept

        try:
            with LmdbStore(self.folder) as store:
                return Count(len(store))
        except StoreError as error:
            return Count(problem=str(error))

    def unused(self) -> AbstractContextManager[bool]:
        from stillhouse.teachers.stores.lmdb_store import unopened

        return unopened(self.folder)


@final
@dataclass(frozen=True)
class StoredTeacher(Item):
    """A fine-tuned teacher."""

    kind = "teacher"

    def count(self) -> Count:
        return Count()

    def unused(self) -> AbstractContextManager[bool]:
        return unheld(self.folder / TEACHER_FILE)


@final
@dataclass(frozen=True)
class GivenObject(Item):
    """Data or a model that `stillhouse.distill` was given as an object."""

    kind = "given"
    if_not_noted = "what stillhouse.distill was given; to run its recipe again needs it"

    def count(self) -> Count:
        return Count()

    def unused(self) -> AbstractContextManager[bool]:
        return nullcontext(True)  # a run reads it once, when it starts


@final
@dataclass(frozen=True)
class Leftover(Item):
    """What a process was writing or deleting when it was killed, or still is."""

    kind = "leftover"
    if_not_noted = "left by a process that was killed, or is at work"
    advice = "prune deletes leftovers a day after they were touched last"
    own_limit_s = 24 * 3600.0
    goes_for_room = False

    def count(self) -> Count:
        return Count()

    def unused(self) -> AbstractContextManager[bool]:
        return nullcontext(True)


def items_in(folder: Path | None = None) -> tuple[Path, list[Item]]:
    """A cache folder (the user's, if nothing is given) and what is in it, the largest first.

    The folder may be that of a single store, as a recipe's ``cache: FOLDER`` names it. The user's own may not be there
    yet, and is then empty. Raises `ConfigError` for any other folder that is no cache.
    """
    place = (folder or cache_dir()).expanduser().absolute()
    if (place / STORE_FILE).is_file():
        return place, [_store(place)]
    parts = {name: place / name for name in (SIGNALS, TEACHERS, GIVEN)}
    if folder is not None and not any(part.is_dir() for part in parts.values()):
        raise ConfigError(f"{folder} is no cache: it holds none of {', '.join(parts)}, as the cache folder "
                          f"does, nor {STORE_FILE}, as a store does; give one of those, or nothing for {cache_dir()}")
    kinds_given = [kind for kind in parts[GIVEN].glob("*") if kind.is_dir()]
    found = [*_stores(parts[SIGNALS]), *_teachers(parts[TEACHERS]), *chain.from_iterable(map(_given, kinds_given)),
             *chain.from_iterable(map(_leftovers, (parts[SIGNALS], parts[TEACHERS], *kinds_given)))]
    return place, sorted(found, key=lambda item: item.size_bytes, reverse=True)


def _stores(place: Path) -> Iterator[Store]:
    return (_store(file.parent) for file in place.glob(f"*/{STORE_FILE}") if not _is_leftover(file.parent))


def _store(folder: Path) -> Store:
    about = tuple(", ".join(note[name] for name in ("teacher", "task", "dtype") if name in note)
                  for note in notes(folder))
    return Store(folder, about, folder_bytes(folder), last_use_s(folder, folder / STORE_FILE))


def _teachers(place: Path) -> Iterator[StoredTeacher]:
    return (StoredTeacher(file.parent, _about_teacher(file), folder_bytes(file.parent), last_use_s(file.parent, file))
            for file in place.glob(f"*/{TEACHER_FILE}") if not _is_leftover(file.parent))


def _given(place: Path) -> Iterator[GivenObject]:
    for path in place.glob("*"):
        with suppress(FileNotFoundError):  # gone meanwhile, by another process
            if not _is_leftover(path):
                yield GivenObject(path, (), folder_bytes(path), path.stat().st_mtime)


def _about_teacher(file: Path) -> tuple[str, ...]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        about, metrics = record.get("about", {}), record["metrics"]
        words = [str(about[name]) for name in ("teacher", "task") if name in about]
        return (", ".join([*words, *(f"{name} {float(value):.4f}" for name, value in metrics.items())]),)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _leftovers(place: Path) -> Iterator[Leftover]:
    for folder in filter(_is_leftover, place.glob(".*")):
        with suppress(FileNotFoundError):  # gone meanwhile, by another process
            yield Leftover(folder, (), folder_bytes(folder), folder.stat().st_mtime)


def _is_leftover(folder: Path) -> bool:
    return folder.name.startswith((MOVED_ASIDE, BEING_WRITTEN))
