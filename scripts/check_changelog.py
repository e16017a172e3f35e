"""Check that CHANGELOG.md can be read by people and programs: known headings, nothing empty, newest first."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
RELEASE = re.compile(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d{2}-\d{2})")


@dataclass
class Release:
    """One ``## `` heading and the number of entries in each of its sections."""

    heading: str
    line: int
    entries: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> tuple[list[Release], list[str]]:
    """The releases in the order of the file, and what was wrong on the way."""
    releases: list[Release] = []
    problems: list[str] = []
    section = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            releases.append(Release(line[3:].strip(), number))
            section = None
        elif line.startswith("### "):
            section = line[4:].strip()
            if section not in SECTIONS:
                problems.append(f"line {number}: unknown section {section!r}; known: {', '.join(SECTIONS)}")
            if not releases:
                problems.append(f"line {number}: section {section!r} stands before any '## ' heading")
            elif section in releases[-1].entries:
                problems.append(f"line {number}: section {section!r} stands twice in {releases[-1].heading}; join them")
            else:
                releases[-1].entries[section] = 0
        elif line.startswith("- ") and releases:
            if section is None:
                problems.append(f"line {number}: an entry outside a section; put it under one of {', '.join(SECTIONS)}")
            else:
                releases[-1].entries[section] += 1
    return releases, problems


def check_headings(releases: list[Release]) -> list[str]:
    """Problems of the ``## `` headings: their form and their order."""
    if not releases or releases[0].heading != "[Unreleased]":
        return ["the first '## ' heading must be '## [Unreleased]'"]
    problems = []
    newer: tuple[tuple[int, ...], str] | None = None
    for release in releases[1:]:
        match = RELEASE.fullmatch(release.heading)
        if match is None:
            problems.append(f"line {release.line}: heading {release.heading!r}; write '[1.2.3] - 2026-01-31'")
            continue
        version, date = tuple(map(int, match.groups()[:3])), match[4]
        if newer is not None and (version >= newer[0] or date > newer[1]):
            problems.append(f"line {release.line}: {release.heading} is not older than the release above; newest first")
        newer = version, date
    return problems


def check_entries(releases: list[Release]) -> list[str]:
    """Problems of what stands under the headings: only ``[Unreleased]`` may be empty."""
    problems = [f"line {release.line}: {release.heading} says nothing; list what changed"
                for release in releases[1:] if not release.entries]
    for release in releases:
        problems += [f"line {release.line}: section {name!r} of {release.heading} has no '- ' entry; fill or remove it"
                     for name, count in release.entries.items() if count == 0]
    return problems


def problems_of(text: str) -> list[str]:
    """Everything wrong with a changelog's text, one message each."""
    releases, problems = parse(text)
    if not text.startswith("# Changelog\n"):
        problems.insert(0, "line 1: must be '# Changelog'")
    return problems + check_headings(releases) + check_entries(releases)


def main() -> int:
    """Print the problems of the project's changelog; 1 if there are any."""
    path = Path(__file__).resolve().parent.parent / "CHANGELOG.md"
    problems = problems_of(path.read_text(encoding="utf-8"))
    for problem in problems:
        print(f"{path.name}: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
