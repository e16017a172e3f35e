"""What a finished run is for people: its report, and the card beside its student.

The run has all its results already, so what goes wrong here is a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillhouse.report import model_card, write_report
from stillhouse.whole_files import write_text

CARD = "README.md"


def write_page(run: Path) -> Path | None:
    """Write the page of a run, or of the runs in a folder; its path, None where that failed."""
    page = None
    with _only_warned("its report", f"write it with stillhouse report {run}"):
        page = write_report([run])
    return page


def write_card(run: Path, student_dir: Path) -> None:
    """Write the student's card."""
    with _only_warned("its student's card", "the student is whole without it"):
        write_text(student_dir / CARD, model_card(run))


@contextmanager
def _only_warned(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        warnings.warn(f"the run is finished, but not {what} ({type(error).__name__}: {error}); {remedy}", stacklevel=4)
