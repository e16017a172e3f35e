"""The folder of an export: who may be replaced, and what lies where.

    model.onnx             the student in float32 (model.onnx.data beside it, if it is too large for one file)
    model.int8.onnx        the same with weights in 8 bits, if that was asked for
    config.json, tokenizer files
    export.json            what was measured

It is written aside, then renamed, so that it is whole if it is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    found = sorted(path.name for path in folder.iterdir())
    if found and RESULTS not in found:
        raise ConfigError(f"--output {folder}: the folder holds what no export has written ({', '.join(found[:5])}); "
                          "name another one, or a new folder inside it")


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A new folder beside it, which takes its place in the end, or is removed after an error."""
    place = folder.resolve()
    aside = place.with_name(f".writing-{place.name}")
    try:
        with writing(folder):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        yield aside
        with writing(folder):
            if place.exists():
                shutil.rmtree(place)
            os.replace(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
