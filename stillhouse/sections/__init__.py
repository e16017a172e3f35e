"""Sections: what recipes are made of. Checked values by name, and errors that say which of them is wrong, and why.

``section.py`` is the base of every section, ``values.py`` has kinds of values, each with its message, and
``problems.py`` puts what pydantic finds into lines for people.
"""

from __future__ import annotations

from stillhouse.sections.problems import config_error, unknown_key
from stillhouse.sections.section import Section

__all__ = ["Section", "config_error", "unknown_key"]
