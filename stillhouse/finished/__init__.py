"""Finished runs and saved models, put to use: opened, asked about new rows, and judged on other data.

`open_run` makes one value of a run folder or a model, `predict` asks it about rows, `evaluate` judges it on labels.
Names are loaded when they are first used, so that the commands of this room cost nothing until one runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillhouse.finished.evaluating import evaluate
    from stillhouse.finished.finished_run import FinishedRun, open_run
    from stillhouse.finished.predicting import predict

__all__ = ["FinishedRun", "evaluate", "open_run", "predict"]

_HOME_OF = {"FinishedRun": "finished_run", "evaluate": "evaluating", "open_run": "finished_run",
            "predict": "predicting"}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"stillhouse.finished.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'stillhouse.finished' has no attribute {name!r}")
