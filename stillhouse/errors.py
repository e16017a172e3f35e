"""Every error that Stillhouse raises on purpose.

    StillhouseError
    ├── UsageError (also a ValueError)   something the user gave cannot work; the command line exits with 2
    │   ├── ConfigError                  a value in a configuration or recipe
    │   ├── DataError                    a file, a column, a label or a row of the data
    │   ├── PlanError                    an experiment whose parts do not fit together
    │   └── OutputError                  what a model or adaptor returned is not what was promised
    ├── TrainingError (also a RuntimeError)
    │   └── NonFiniteLossError           the loss became NaN or infinite
    ├── CheckpointError (also a RuntimeError)
    └── StoreError (also a RuntimeError) a cache that cannot be read or written

Messages say what was found, what is allowed and what to do. A user's mistake found by any part of the package
raises one of the first branch before anything is trained or written.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class StillhouseError(Exception):
    """Base of every error raised on purpose."""


class UsageError(StillhouseError, ValueError):
    """Something the user gave cannot work."""


class ConfigError(UsageError):
    """A value in a configuration or recipe is unknown, missing or out of range."""


class DataError(UsageError):
    """A file, column, label or row of the data is missing or wrong."""


class PlanError(UsageError):
    """The parts of an experiment do not fit together (found before the first step)."""


class OutputError(UsageError):
    """A model or adaptor returned something other than promised (found at the first micro-batch)."""


class TrainingError(StillhouseError, RuntimeError):
    """Training cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite."""


class CheckpointError(StillhouseError, RuntimeError):
    """A checkpoint is missing, incomplete or belongs to another experiment."""


class StoreError(StillhouseError, RuntimeError):
    """A cache cannot be opened, read or written."""


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most like the one that was written; None if none is like it."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), None)


def unknown_name(what: str, name: object, allowed: Iterable[str], *, unlikely: Collection[str] = ()) -> str:
    """The message for a name that is not in a list: the value, the nearest known name, the allowed set.

    Those that are ``unlikely`` to be meant are among the allowed, and not offered as the nearest.

    >>> unknown_name("shape", "T33", ["T3", "T6"])
    "unknown shape 'T33': did you mean 'T3'? Known: T3, T6"
    """
    known = sorted(allowed)
    near = nearest(name, [each for each in known if each not in unlikely])
    hint = f": did you mean {near!r}?" if near else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, for a message about something larger; empty if it says nothing."""
    return str(error).strip().partition("\n")[0]


@contextmanager
def about(key: str) -> Iterator[None]:
    """A user's mistakes found inside are said to be about this key of a recipe."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"{key}: {error}") from error
