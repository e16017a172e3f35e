"""A run as one page for people, and a student's model card; both read nothing but the files of run folders.

``run_files.py`` reads them, ``answers.py`` knows what an answer of each task is. ``calibration.py``, ``confusion.py``,
``classes.py``, ``entities.py`` and ``disagreements.py`` compute what is shown, ``groups.py`` puts seeds together.
``svg.py`` and ``charts.py`` draw; ``sections.py``, ``comparison.py`` and ``writing.py`` make the page of templates.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["model_card", "write_report"]

if TYPE_CHECKING:
    from stillhouse.report.model_cards import model_card
    from stillhouse.report.writing import write_report

_HOME_OF = {"model_card": "stillhouse.report.model_cards", "write_report": "stillhouse.report.writing"}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'stillhouse.report' has no attribute {name!r}")
