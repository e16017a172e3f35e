"""What lies in a cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillhouse.cache_dirs import cache_dir
from stillhouse.cache_use import last_use_s, notes
from stillhouse.errors import ConfigError

STORE_FILE = "data.mdb"
TEACHER_FILE = "teacher.json"
MOVED_ASIDE = ".pruned-"
_BEING_WRITTEN = ".writing-"
_SIGNALS, _TEACHERS = "signals", "teachers"


@dataclass(frozen=True)
class Item:
    """One folder of a cache.

    Attributes:
        folder: its path.
        kind: ``answers`` is a store of teachers' answers, ``teacher`` a fine-tuned teacher, and ``leftover`` what a
            process was writing or deleting when it was killed, or still is.
        about: what it is for, the last use first; empty if nobody noted it.
        size_bytes: of its files.
        last_use_s: in seconds since 1970.
    """

    folder: Path
    kind: Literal["answers", "teacher", "leftover"]
    about: tuple[str, ...]
    size_bytes: int
    last_use_s: float


def items_in(folder: Path | None = None) -> tuple[Path, list[Item]]:
    """A cache folder (the user's, if nothing is given) and what is in it, the largest first.

    The folder may be that of a single store, as a recipe's ``cache: FOLDER`` names it. The user's own may not be there
    yet, and is then empty. Raises `ConfigError` for any other folder that is no cache.
    """
    place = (folder or cache_dir()).expanduser().absolute()
    if (place / STORE_FILE).is_file():
        return place, [_store(place)]
    parts = {name: place / name for name in (_SIGNALS, _TEACHERS)}
    if folder is not None and not any(part.is_dir() for part in parts.values()):
        raise ConfigError(f"{folder} is no cache: it holds neither {_SIGNALS} nor {_TEACHERS}, as the cache folder "
                          f"does, nor {STORE_FILE}, as a store does; give one of those, or nothing for {cache_dir()}")
    found = [*_stores(parts[_SIGNALS]), *_teachers(parts[_TEACHERS]),
             *_leftovers(parts[_SIGNALS]), *_leftovers(parts[_TEACHERS])]
    return place, sorted(found, key=lambda item: item.size_bytes, reverse=True)


def _stores(place: Path) -> Iterator[Item]:
    return (_store(file.parent) for file in place.glob(f"*/{STORE_FILE}") if not _is_leftover(file.parent))


def _store(folder: Path) -> Item:
    about = tuple(", ".join(note[name] for name in ("teacher", "task", "dtype") if name in note)
                  for note in notes(folder))
    return Item(folder, "answers", about, _size_bytes(folder), last_use_s(folder, folder / STORE_FILE))


def _teachers(place: Path) -> Iterator[Item]:
    return (Item(file.parent, "teacher", _about_teacher(file), _size_bytes(file.parent), last_use_s(file.parent, file))
            for file in place.glob(f"*/{TEACHER_FILE}") if not _is_leftover(file.parent))


def _about_teacher(file: Path) -> tuple[str, ...]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        about, metrics = record.get("about", {}), record["metrics"]
        words = [str(about[name]) for name in ("teacher", "task") if name in about]
        return (", ".join([*words, *(f"{name} {float(value):.4f}" for name, value in metrics.items())]),)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _leftovers(place: Path) -> Iterator[Item]:
    for folder in filter(_is_leftover, place.glob(".*")):
        with suppress(FileNotFoundError):  # gone meanwhile, by another process
            yield Item(folder, "leftover", (), _size_bytes(folder), folder.stat().st_mtime)


def _is_leftover(folder: Path) -> bool:
    return folder.name.startswith((MOVED_ASIDE, _BEING_WRITTEN))


def _size_bytes(folder: Path) -> int:
    """Of the files that are still there when their turn comes: other processes may be writing or deleting."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total
