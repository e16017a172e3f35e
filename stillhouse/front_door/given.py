"""What the user has in memory, as a file or folder below the cache folder.

A run folder's recipe has to say everything about its run, so what was given as an object needs a place that a recipe
can name. The place is named by the content: the same content is written once, and a resumed or repeated run finds it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from stillhouse.cache_dirs import BEING_WRITTEN
from stillhouse.errors import StoreError, UsageError

_OPTIONS = {"--resume": "resume=True", "--overwrite": "overwrite=True"}
"""What messages call a setting of the command line, and what it is called in Python."""


@final
@dataclass(frozen=True)
class Given:
    """One object that the user gave.

    Attributes:
        called: what messages call it, such as ``train``.
        path: where its content is, or will be; absolute.
        write: writes the content as a file or folder of the given path.
    """

    called: str
    path: Path
    write: Callable[[Path], None]

    def keep(self) -> None:
        """Write the content, unless it is there: aside, then rename. Raises `StoreError` where that is not possible."""
        if self.path.exists():
            with suppress(OSError):  # of another user's cache, which is read all the same
                os.utime(self.path)
            return
        aside = self.path.with_name(f"{BEING_WRITTEN}{uuid.uuid4().hex}{self.path.suffix}")
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            self.write(aside)
            os.replace(aside, self.path)
        except OSError as error:
            if not self.path.exists():  # else another process was faster, and wrote the same
                raise StoreError(f"{self.called} cannot be written to {self.path}: {error}; make room there, or name "
                                 "another folder in the environment variable STILLHOUSE_CACHE") from error
        finally:
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink(missing_ok=True)


@contextmanager
def in_the_users_words(given: Sequence[Given]) -> Iterator[None]:
    """A mistake found inside is told in the words of Python's user, who never saw the paths of what was given."""
    try:
        yield
    except UsageError as error:
        text = str(error)
        for one in given:
            text = text.replace(str(one.path), one.called)
        for option, keyword in _OPTIONS.items():
            text = text.replace(option, keyword)
        raise type(error)(text) from error
