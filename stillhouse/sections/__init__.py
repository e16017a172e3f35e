"""Sections: what recipes are made of. Checked values by name, and errors that say which of them is wrong, and why.

    section.py  the base of every section     values.py  kinds of values, each with its message
    problems.py what pydantic finds, as lines for people
"""

from __future__ import annotations

from stillhouse.sections.problems import config_error, unknown_key
from stillhouse.sections.section import Section

__all__ = ["Section", "config_error", "unknown_key"]
