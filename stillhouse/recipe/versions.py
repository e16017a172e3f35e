"""The versions that a run was made with, its plugins' contents among them."""

from __future__ import annotations

import platform
from importlib.metadata import version

from stillhouse import __version__, plugins

_RECORDED = ("torch", "transformers", "datasets", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Versions by name: stillhouse, Python, the packages that decide results, and plugin files by their SHA-256."""
    return {"stillhouse": __version__, "python": platform.python_version(),
            **{name: version(name) for name in _RECORDED},
            **{f"plugin {path}": f"sha256 {digest}" for path, digest in plugins.loaded_files().items()}}
