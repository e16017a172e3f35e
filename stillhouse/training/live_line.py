"""A line that is written over and over, where there is no terminal for a progress bar."""

from __future__ import annotations

import abc
from typing import Any, final


class LiveLine(abc.ABC):
    """A place for one line of text. Abstract."""

    @abc.abstractmethod
    def show(self, text: str) -> None:
        """Show this instead of what was shown."""


@final
class NoLine(LiveLine):
    """Shows nothing."""

    def show(self, text: str) -> None:
        pass


@final
class NotebookLine(LiveLine):
    """An output of the notebook cell that runs; other outputs may come after it, and it stays where it is."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import display  # there, or this would not be a notebook

        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update({"text/plain": text}, raw=True)
