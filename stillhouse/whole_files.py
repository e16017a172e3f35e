"""Files that are there as a whole or not at all: written aside, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stillhouse.cache_dirs import BEING_WRITTEN


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the path to write to; the file that is there afterwards gets its name, unless something was raised.

    Of a link it is the file behind it that is replaced. What is there and no file, such as a pipe or ``/dev/null``, is
    written to as it is.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    place = path.resolve()
    aside = place.with_name(f"{BEING_WRITTEN}{place.name}")
    try:
        yield aside
        os.replace(aside, place)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


@contextmanager
def folder_made(folder: Path) -> Iterator[None]:
    """The folder is there inside; what was made for it goes again, where it is empty, if something is raised."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):
                place.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, its line feeds as they are."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write a value for people to read, too."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
