"""What a finished run is for people: its report, and the card beside its student."""

from __future__ import annotations

import warnings
from pathlib import Path

from stillhouse.report import model_card, write_report

CARD = "README.md"


def write_pages(run: Path, student_dir: Path) -> Path | None:
    """Write the student's card and the run's page; the path of the page.

    None, and a warning, if something goes wrong: the run has all its results already.
    """
    try:
        (student_dir / CARD).write_text(model_card(run), encoding="utf-8")
        return write_report([run])
    except Exception as error:
        warnings.warn(f"the run is finished, but not its report ({type(error).__name__}: {error}); write it with "
                      f"stillhouse report {run}", stacklevel=2)
        return None
