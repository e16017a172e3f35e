"""Ctrl-C inside a command of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InterruptedByUserError(Exception):
    """Ctrl-C inside a command; the command-line library would turn KeyboardInterrupt into an exit of its own."""


@contextmanager
def interruptible(advice: str = "") -> Iterator[None]:
    """Turn Ctrl-C into an error that says how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedByUserError(f"interrupted{advice}") from error
