"""An extension of griffe: how docstrings stand on the site. Examples (``>>>``) are code, and a loss names its paper."""

from __future__ import annotations

import ast
from typing import Any

import griffe


def fenced(text: str) -> str:
    """The text with each run of lines from a ``>>>`` to the next blank line in a fence."""
    lines, inside = [], False
    for line in [*text.split("\n"), ""]:
        if inside and not line.strip():
            lines.append("```")
            inside = False
        elif not inside and line.startswith(">>>"):
            lines += ["", "```pycon"]
            inside = True
        lines.append(line)
    return "\n".join(lines[:-1])


def text_of(value: Any, module: griffe.Module) -> str | None:
    """The text that an attribute is set to, at once or by the name of a text in its module; None for anything else."""
    named = module.members.get(str(value))
    try:
        found = ast.literal_eval(str(named.value if isinstance(named, griffe.Attribute) else value))
    except (ValueError, SyntaxError):
        return None
    return found if isinstance(found, str) else None


class Docstrings(griffe.Extension):
    """Changes the docstrings of what was read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put examples into fences."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Let a class that has a ``paper`` name it."""
        paper = cls.members.get("paper")
        text = text_of(paper.value, cls.module) if isinstance(paper, griffe.Attribute) else None
        if text is not None and cls.docstring is not None:
            cls.docstring.value += f"\n\nPaper: {text}."
