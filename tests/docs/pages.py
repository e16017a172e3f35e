"""The pages of the documentation as a list of blocks, whichever page they stand on.

A fenced block says by its language what it is, and by a title what it is called: ``python`` runs, ``yaml`` is a recipe
or a part of one, ``bash`` and ``sh`` are command lines, and a block with ``title="train.csv"`` is that file. A ``text``
block with ``title="prints"`` is what the Python block before it prints. What cannot be run is marked right above it,
with the reason: ``<!-- not run: it needs an account of the hub -->``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "recipes/README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")))
SHELL = ("bash", "sh")

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>\w*)(?P<rest>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_MARKER = re.compile(r"^ *<!-- not run: *(.*?) *-->$")


@dataclass(frozen=True)
class Block:
    """One fenced block: ``line`` is that of its first line, ``reason`` why it is not run, if it is not."""

    page: str
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[Block]:
    return blocks_in(text_of(page), page)


def blocks_in(text: str, page: str) -> list[Block]:
    """The fenced blocks of a text, in order. Raises `ValueError` for a fence or a marker that stands alone."""
    blocks: list[Block] = []
    lines = text.split("\n")
    reason: str | None = None
    number = 0
    while number < len(lines):
        line = lines[number]
        opening, marker = _FENCE.match(line), _MARKER.match(line)
        if marker:
            reason = marker[1]
            if not reason or not _FENCE.match(lines[number + 1]):
                raise ValueError(f"{page}:{number + 1}: a marker gives a reason and stands right above a block")
        if opening:
            end = next((i for i in range(number + 1, len(lines)) if lines[i].strip() == opening["ticks"]), None)
            if end is None:
                raise ValueError(f"{page}:{number + 1}: this block has no end")
            inside = [each.removeprefix(opening["indent"]) for each in lines[number + 1 : end]]
            title = _TITLE.search(opening["rest"])
            blocks.append(Block(page, number + 2, opening["language"], title[1] if title else None,
                                "".join(each + "\n" for each in inside), reason))
            number, reason = end, None
        number += 1
    return blocks


def inline_commands(page: str) -> list[tuple[int, str]]:
    """Every ``stillhouse ...`` between backticks in running text, with its line."""
    found, fenced = [], False
    for number, line in enumerate(text_of(page).split("\n"), start=1):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            found += [(number, words) for words in re.findall(r"(?<!`)`(stillhouse [^`]+)`(?!`)", line)]
    return found
