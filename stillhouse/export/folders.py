"""The folder of an export: who may be replaced, and what lies where.

    model.onnx             the student in float32 (model.onnx.data beside it, if it is too large for one file)
    model.int8.onnx        the same with weights in 8 bits, if that was asked for
    config.json, tokenizer files
    export.json            what was measured

It is written aside, then renamed, so that it is whole if it is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillhouse.cache_dirs import BEING_WRITTEN
from stillhouse.errors import ConfigError

MODEL, INT8_MODEL, RESULTS = "model.onnx", "model.int8.onnx", "export.json"


def require_place(folder: Path) -> None:
    """Raise `ConfigError` unless the folder is not there, or empty, or an earlier export that nobody stands in."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"--output {folder}: that is a file; name a folder")
    if Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"--output {folder}: that is the current directory or holds it, and would be replaced; name "
                          "a folder inside, as in --output onnx, or go elsewhere first")
    foreign = sorted({path.name for path in folder.iterdir()} - _exported(folder))
    if foreign:
        raise ConfigError(f"--output {folder}: the folder holds what no export has written ({', '.join(foreign[:5])}); "
                          "name another one, or a new folder inside it")


def content_of(folder: Path) -> list[str]:
    """The names that ``export.json`` says were written, itself among them."""
    return sorted({path.name for path in folder.iterdir()} | {RESULTS})


def _exported(folder: Path) -> set[str]:
    """What an earlier export says that it has written; nothing without one."""
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        return set(map(str, found["content"]))
    except (OSError, ValueError, TypeError, KeyError):
        return set()


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A new folder beside it, which takes its place in the end, or is removed after an error."""
    place = folder.resolve()
    aside, earlier = (place.with_name(f"{BEING_WRITTEN}{name}{place.name}") for name in ("", "earlier-"))
    try:
        with writing(folder):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        yield aside
        with writing(folder):
            shutil.rmtree(earlier, ignore_errors=True)
            if place.exists():
                os.replace(place, earlier)
            os.replace(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if place.exists():
            shutil.rmtree(earlier, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around what only writes: whatever the disk refuses is a `ConfigError` about the folder."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--output {folder}: cannot be written: {error.strerror or error}; name another folder, or "
                          "mend that") from error


def size_of(path: Path) -> int:
    """The bytes of a graph, with those of the weights beside it."""
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
