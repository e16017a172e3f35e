"""The packages that only an export needs, and the error where they are missing."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from stillhouse.errors import ConfigError

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def require_packages() -> None:
    """Raise `ConfigError`, saying what to install, unless all of them are there. None is imported."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"an export needs {', '.join(NEEDED)}, and {', '.join(missing)} "
                          f"{'is' if len(missing) == 1 else 'are'} not installed; "
                          'install them: pip install "stillhouse[export]"')


def versions() -> dict[str, str]:
    """The versions of these packages by name."""
    return {name: metadata.version(name) for name in NEEDED}
