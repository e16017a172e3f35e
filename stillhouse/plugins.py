"""Users' own code: a Python file named by a recipe, or an installed package that announces itself.

A plugin extends the package when it is loaded, as a script would: with `stillhouse.register_new` or by assigning into
one of the dictionaries of `stillhouse.presets`. Loading a file runs it, so nothing is loaded that was not allowed: a
recipe's files only with ``--allow-plugins``. An installed package names a module, or a function to call, under the
entry point group ``stillhouse.plugins``; it is loaded when a name is asked for that the package itself does not know.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
import warnings
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from stillhouse.errors import ConfigError

GROUP = "stillhouse.plugins"

_loaded: dict[str, str] = {}


def loaded_files() -> dict[str, str]:
    """The plugin files loaded so far, as given, and the SHA-256 of what they held."""
    return dict(_loaded)


def digests(paths: Iterable[str | Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its path as given: of what was loaded, or else of what is there, if anything is."""
    found = {}
    for path in paths:
        file = Path(path).expanduser()
        if str(file) in _loaded:
            found[str(path)] = _loaded[str(file)]
        elif file.is_file():
            found[str(path)] = _digest(file)
    return found


def load_files(paths: Iterable[str | Path]) -> None:
    """Run each file, once for each content. Raises `ConfigError` for one that is not there or fails."""
    for path in paths:
        _load_file(Path(path).expanduser())


def _load_file(path: Path) -> None:
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"plugins: {str(path)!r} is no Python file; give a path from the current directory, as in "
                          "plugins: [my_losses.py]")
    digest = _digest(path)
    if _loaded.get(str(path)) == digest:
        return
    name = f"stillhouse_plugin_{path.stem}_{digest[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        place = f", line {line}" if line else ""
        raise ConfigError(f"plugins: {path} failed{place}: {type(error).__name__}: {error}") from error
    _loaded[str(path)] = digest


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def load_installed() -> tuple[str, ...]:
    """Load what installed packages announce, once; the names of the entry points. One that fails is passed over with a
    warning, since it need not have anything to do with what is being done.
    """
    names = []
    for point in entry_points(group=GROUP):
        try:
            found = point.load()
            if callable(found):
                found()
        except Exception as error:
            warnings.warn(f"the installed plugin {point.name!r} ({point.value}) could not be loaded: "
                          f"{type(error).__name__}: {error}", stacklevel=3)
        else:
            names.append(point.name)
    return tuple(names)
