"""What a model says of an example, as plain values that JSON can hold: rounded, and of many labels the likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Said = dict[str, Any]
"""What a model says of one example. Each task says which keys there are."""

MOST_LIKELY = 5
"""How many labels are told with their probabilities."""


def share(probability: float) -> float:
    """A probability with 4 significant digits."""
    return float(f"{probability:.4g}")


def number(value: float) -> float:
    """A number with 7 significant digits, of which float32 has no more."""
    return float(f"{value:.7g}")


def most_likely(names: Sequence[str], probabilities_C: Sequence[float]) -> dict[str, float]:
    """The likeliest names, at most `MOST_LIKELY`, the first of them first, each with its probability."""
    order = np.argsort(-np.asarray(probabilities_C), kind="stable")[:MOST_LIKELY]
    return {names[place]: share(probabilities_C[place]) for place in order.tolist()}
