"""Command lines of the pages: taken apart as a shell would, checked against the real command line, and run."""

from __future__ import annotations

import io
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from stillhouse import cli


@dataclass(frozen=True)
class CommandLine:
    """One command: its words, what it reads as its standard input, and the file that its output goes to."""

    words: tuple[str, ...]
    stdin: str | None = None
    stdin_path: str | None = None
    stdout_path: str | None = None


def lines_of(text: str) -> list[str]:
    """The lines of a block: continued ones joined, comments, blank lines and here-documents left out."""
    lines, closing = [], None
    for line in text.replace("\\\n", " ").split("\n"):
        if closing is not None:
            closing = None if line == closing else closing
            continue
        if "<<'" in line:
            closing = line.split("<<'")[1].split("'")[0]
        if line.strip() and not line.lstrip().startswith("#"):
            lines.append(line.strip())
    return lines


def stillhouse_command(line: str) -> CommandLine | None:
    """The call of ``stillhouse`` in a line, be it behind torchrun or ``echo ... |``; None if there is none."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>;&")
    lexer.whitespace_split = True
    words = list(lexer)
    stdin = None
    if words[0] == "echo" and "|" in words:
        stdin, words = " ".join(words[1 : words.index("|")]) + "\n", words[words.index("|") + 1 :]
    if words[0] in ("torchrun", "accelerate") and "stillhouse.cli" in words:
        words = ["stillhouse", *words[words.index("stillhouse.cli") + 1 :]]
    if words[0] != "stillhouse":
        return None
    paths: dict[str, str] = {}
    for sign in "<>":
        if sign in words:
            at = words.index(sign)
            paths[sign] = words[at + 1]
            del words[at : at + 2]
    return CommandLine(tuple(words[1:]), stdin, paths.get("<"), paths.get(">"))


def problem_of(words: tuple[str, ...], *, whole: bool = True) -> str | None:
    """What the command line says against these words before it runs anything; None if nothing.

    Without ``whole``, arguments and values may be missing, as where a command is only named.
    """
    command: Any = get_command(cli.app)
    name, rest = "stillhouse", list(words)
    try:
        while True:
            with command.make_context(name, rest, resilient_parsing=False) as context:
                if not hasattr(command, "resolve_command"):
                    return None
                rest = [*context._protected_args, *context.args]
                name, command, rest = command.resolve_command(context, rest)
    except Exception as error:
        if type(error).__name__ in ("Exit", "NoArgsIsHelpError"):
            return None
        if not whole and type(error).__name__ in ("MissingParameter", "BadOptionUsage"):
            return None
        return f"{type(error).__name__}: {error}"


def run(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run it in this process, in the current folder, and return the exit code."""
    stdin = command.stdin
    if command.stdin_path is not None:
        stdin = Path(command.stdin_path).read_text(encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((stdin or "").encode())))
        if command.stdout_path is None:
            return cli.main(command.words)
        with Path(command.stdout_path).open("w", encoding="utf-8") as file, redirect_stdout(file):
            return cli.main(command.words)
