"""The versions that a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version

from stillhouse import __version__

_RECORDED = ("torch", "transformers", "datasets", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Versions by name: stillhouse, Python, and the packages that decide results."""
    return {"stillhouse": __version__, "python": platform.python_version(),
            **{name: version(name) for name in _RECORDED}}
