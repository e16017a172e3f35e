"""Metrics that a callback returns: what counts as one, and how they outlive an interruption.

A checkpoint is complete before its callback runs, so what that returns is written beside the training state afterwards.
A run that is killed in between goes on without them.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stillhouse.training.checkpoint import STATE_DIR
from stillhouse.whole_files import write_json

_FILE = "callback.json"


def split(returned: Any) -> tuple[dict[str, float], list[str]]:
    """The numbers of what a callback returned, by ``name`` or ``task/name``, and in words what is none.

    Real numbers count, tensors and arrays of one element among them.
    """
    if returned is None:
        return {}, []
    if not isinstance(returned, Mapping):
        return {}, [f"a {type(returned).__name__}"]
    metrics: dict[str, float] = {}
    others = []
    for name, value in _flat(returned):
        number = _number(value)
        if number is None:
            others.append(f"{name} (a {type(value).__name__})")
        else:
            metrics[name] = number
    return metrics, others


def save(folder: Path, metrics: Mapping[str, float], events: Sequence[int | None]) -> None:
    """Write a checkpoint's metrics, and how far the logs reach that hold them."""
    write_json(folder / STATE_DIR / _FILE, {"metrics": dict(metrics), "events": list(events)})


def load(folder: Path) -> tuple[dict[str, float], list[int | None]] | None:
    """What `save` wrote; None if there is nothing that can be read."""
    try:
        found = json.loads((folder / STATE_DIR / _FILE).read_text(encoding="utf-8"))
        return found["metrics"], found["events"]
    except (OSError, ValueError, KeyError, TypeError):  # metrics are not worth a training
        return None


def _flat(returned: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in returned.items():
        pairs += [(f"{name}/{key}", item) for key, item in value.items()] if isinstance(value, Mapping) else [
            (str(name), value)]
    return pairs


def _number(value: Any) -> float | None:
    try:
        if isinstance(value, (Tensor, np.ndarray, np.generic)):
            value = value.item()
        return float(value) if isinstance(value, numbers.Real) else None
    except (ValueError, RuntimeError, OverflowError):  # several elements, no values, or too large
        return None
