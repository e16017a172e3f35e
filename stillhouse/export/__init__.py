"""A finished student as a file that runs without torch: ONNX, in 32 bits and in 8, with what was measured of it.

``exporting.py`` goes from a run to a folder. ``graphs.py`` writes a model as a graph, with the layers of
``recurrent_layers.py`` where torch's exporter cannot follow; ``sessions.py`` asks the graph as any other model is
asked; ``quantizing.py`` stores its weights in 8 bits. ``rows.py`` says on which rows the two are compared,
``parity.py`` how far they differ, ``timing.py`` how fast they are. ``folders.py`` knows what lies in the folder,
``hub.py`` uploads it. Nothing heavy is imported until something is exported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stillhouse.export.packages import require_packages

if TYPE_CHECKING:
    from stillhouse.export.exporting import Exported, export_onnx

__all__ = ["Exported", "export_onnx"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        require_packages()
        return getattr(importlib.import_module("stillhouse.export.exporting"), name)
    raise AttributeError(f"module 'stillhouse.export' has no attribute {name!r}")
