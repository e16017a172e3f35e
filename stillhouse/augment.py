"""Token-level data augmentation: masking, deleting, sampling a stretch, and two kinds of disorder.

Every function takes a sequence of tokens (strings, ids, anything), leaves it as it is and returns a new list.
Random numbers come from numpy's global generator, so that ``np.random.seed`` governs them, unless ``rng`` is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from stillhouse.errors import ConfigError

__all__ = ["deleting", "long_disorder", "masking", "n_gram_sampling", "short_disorder"]

T = TypeVar("T")
Rng = np.random.Generator | np.random.RandomState

# How the next tokens are rearranged; each entry is as long as the stretch it takes up.
SHORT_ORDERS: tuple[tuple[int, ...], ...] = ((0,), (1, 0), (2, 1, 0), (2, 0, 1), (1, 2, 0))


def masking(tokens: Sequence[T], p: float = 0.1, mask: T | str = "[MASK]", *, rng: Rng | None = None) -> list[T | str]:
    """Replace each token by ``mask`` with probability ``p``. Raises `ConfigError` for a ``p`` outside 0 to 1.

    >>> masking(["a", "b"], p=1)
    ['[MASK]', '[MASK]']
    """
    _check_probability(p)
    return [mask if _uniform(rng) < p else token for token in tokens]


def deleting(tokens: Sequence[T], p: float = 0.1, *, rng: Rng | None = None) -> list[T]:
    """Leave each token out with probability ``p``. Raises `ConfigError` for a ``p`` outside 0 to 1.

    >>> deleting(["a", "b"], p=0)
    ['a', 'b']
    """
    _check_probability(p)
    return [token for token in tokens if _uniform(rng) < 1 - p]


def n_gram_sampling(
    tokens: Sequence[T],
    p_ng: Sequence[float] = (0.2, 0.2, 0.2, 0.2, 0.2),
    l_ng: Sequence[int] = (1, 2, 3, 4, 5),
    *,
    rng: Rng | None = None,
) -> list[T]:
    """One stretch of neighbouring tokens, of a length drawn from ``l_ng`` with the probabilities ``p_ng``.

    The stretch is the whole sequence where that is not longer than the drawn length. Raises `ConfigError` when
    ``p_ng`` is not a distribution over ``l_ng`` or a length is below 1.

    >>> n_gram_sampling(["a", "b"], p_ng=[1.0], l_ng=[5])
    ['a', 'b']
    """
    _check_distribution("p_ng", p_ng, len(l_ng))
    if min(l_ng) < 1:
        raise ConfigError(f"l_ng={list(l_ng)}: a stretch has at least 1 token; give lengths of 1 or more")
    length = min(int(l_ng[_pick(p_ng, rng)]), len(tokens))
    start = _below(len(tokens) - length + 1, rng)
    return list(tokens[start : start + length])


def short_disorder(
    tokens: Sequence[T], p: Sequence[float] = (0.9, 0.1, 0.0, 0.0, 0.0), *, rng: Rng | None = None
) -> list[T]:
    """Rearrange neighbours: ``abc`` stays or becomes ``bac``, ``cba``, ``cab``, ``bca``, with the probabilities ``p``.

    Reads from left to right and goes on behind what was rearranged, so no token moves by more than two places.
    An order that needs more tokens than are left changes nothing. Raises `ConfigError` unless ``p`` is a
    distribution over the five orders.

    >>> short_disorder("abcd", p=[0, 1, 0, 0, 0])
    ['b', 'a', 'd', 'c']
    """
    _check_distribution("p", p, len(SHORT_ORDERS))
    result: list[T] = []
    while len(result) < len(tokens):
        start, order = len(result), SHORT_ORDERS[_pick(p, rng)]
        if start + len(order) > len(tokens):
            order = SHORT_ORDERS[0]
        result.extend(tokens[start + offset] for offset in order)
    return result


def long_disorder(
    tokens: Sequence[T], p: float = 0.1, length: int | float = 20, *, rng: Rng | None = None
) -> list[T]:
    """Swap the halves of stretches of ``length`` tokens; each position starts such a stretch with probability ``p``.

    A ``length`` of at most 1 is a share of the sequence, rounded to whole tokens; a larger one is a number of tokens.
    Of an odd stretch the second half is the longer. Stretches do not overlap, and one shorter than 2 tokens changes
    nothing. Raises `ConfigError` for a ``p`` outside 0 to 1, a length of 0 or less, or a broken number above 1.

    >>> long_disorder("abcdefgh", p=1, length=4)
    ['c', 'd', 'a', 'b', 'g', 'h', 'e', 'f']
    """
    _check_probability(p)
    if not (0 < length <= 1 or (1 < length < math.inf and length == int(length))):
        raise ConfigError(
            f"length={length!r}: give a share of the sequence (above 0, at most 1) or a whole number of tokens"
        )
    span = round(len(tokens) * length) if length <= 1 else int(length)
    if span < 2:
        return list(tokens)
    result: list[T] = []
    while len(result) < len(tokens):
        start = len(result)
        if start + span > len(tokens):
            result.extend(tokens[start:])
        elif _uniform(rng) < p:
            middle = start + span // 2
            result.extend([*tokens[middle : start + span], *tokens[start:middle]])
        else:
            result.append(tokens[start])
    return result


def _uniform(rng: Rng | None) -> float:
    """One number of [0, 1)."""
    return float(np.random.random() if rng is None else rng.random())


def _below(limit: int, rng: Rng | None) -> int:
    """One whole number from 0 up to, not including, ``limit``."""
    if rng is None:
        return int(np.random.randint(limit))
    return int(rng.integers(limit) if isinstance(rng, np.random.Generator) else rng.randint(limit))


def _pick(probabilities: Sequence[float], rng: Rng | None) -> int:
    """One index drawn from a distribution; uses up a single uniform number."""
    cumulative = np.cumsum(np.asarray(probabilities, dtype=np.float64))
    return int(np.searchsorted(cumulative / cumulative[-1], _uniform(rng), side="right"))


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ConfigError(f"p={p!r} is not a probability; give a number from 0 to 1")


def _check_distribution(name: str, probabilities: Sequence[float], size: int) -> None:
    if len(probabilities) != size or size == 0:
        raise ConfigError(
            f"{name}={list(probabilities)!r} has {len(probabilities)} entries; give one probability for each of the "
            f"{size} choices"
        )
    total = float(sum(probabilities))
    if not all(0 <= value <= 1 for value in probabilities) or abs(total - 1) > 1e-6:
        raise ConfigError(
            f"{name}={list(probabilities)!r} adds up to {total}; give numbers from 0 to 1 that add up to 1"
        )
