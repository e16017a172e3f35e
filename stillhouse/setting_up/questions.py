"""Who answers the questions of ``stillhouse init``: flags, a person at a terminal, or what the file suggests."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import final

import typer

from stillhouse.errors import ConfigError, UsageError

Check = Callable[[str], object]
"""Raises `UsageError` for an answer that cannot be."""


class Answerer(abc.ABC):
    """Answers what no flag answers. Abstract."""

    @abc.abstractmethod
    def answer(self, flag: str, question: str, default: str, check: Check) -> str:
        """An answer that passes the check. ``default`` is empty where nothing suggests one."""


@final
class Person(Answerer):
    """Somebody at a terminal, who is asked again after an answer that cannot be."""

    def answer(self, flag: str, question: str, default: str, check: Check) -> str:
        while True:
            given = str(typer.prompt(question, default=default or None, err=True)).strip()
            try:
                check(given)
            except UsageError as error:
                typer.echo(f"  {error}", err=True)
            else:
                return given


@final
class Suggestions(Answerer):
    """Nobody: what the file suggests is taken (``--yes``)."""

    def answer(self, flag: str, question: str, default: str, check: Check) -> str:
        """Raises `ConfigError` that names the flag where nothing suggests an answer."""
        if not default:
            raise ConfigError(f"{question}? Nothing suggests an answer; give {flag}")
        check(default)
        return default


@final
class NoTerminal(Answerer):
    """Nobody who could be asked, and nobody said that suggestions will do."""

    def answer(self, flag: str, question: str, default: str, check: Check) -> str:
        """Raises `ConfigError` that names the flags."""
        suggested = f" (here {default!r})" if default else ""
        raise ConfigError(f"init asks for what no flag says, and there is no terminal to ask at: {question}? Give "
                          f"{flag}{suggested}, or --yes to take what the data suggests; the flags are --data, --text, "
                          "--label, --teacher and --student")


def answered(given: str | None, answerer: Answerer, flag: str, question: str, default: str, check: Check) -> str:
    """What a flag says, if it was given, else what is answered. Raises `UsageError` for a flag that cannot be."""
    if given is None:
        return answerer.answer(flag, question, default, check)
    try:
        check(given)
    except UsageError as error:
        raise ConfigError(f"{flag}: {error}") from error
    return given
