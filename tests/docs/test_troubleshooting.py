"""The messages that the page on troubleshooting explains are those that the package gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import ROOT, text_of

PAGE = "docs/troubleshooting.md"
VARIES = "…"
MESSAGES = re.findall(r"^### `(.+)`$", text_of(PAGE), flags=re.MULTILINE)


def texts_in(source: str) -> Iterator[str]:
    """Every text of a module; what an f-string fills in is one character."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VARIES for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def said() -> list[str]:
    return [text for path in (ROOT / "stillhouse").rglob("*.py")
            for text in texts_in(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_is_one_that_is_given(message: str, said: list[str]) -> None:
    assert any(message in text for text in said)


def test_texts_are_read_as_they_are_said() -> None:
    assert {"x", "no … in …"} <= set(texts_in("say(f'no {what!r} ' f'in {place}', 'x')"))
    assert len(MESSAGES) > 20


def test_exit_codes_are_those_of_the_command_line() -> None:
    from stillhouse import cli
    from stillhouse.cache_care.commands import DAMAGED_EXIT_CODE
    from stillhouse.setting_up.commands import PROBLEM_EXIT_CODE

    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", text_of(PAGE), flags=re.MULTILINE)]
    assert codes == [0, cli.USAGE_EXIT_CODE, cli.INTERRUPTED_EXIT_CODE, cli.UNEXPECTED_EXIT_CODE]
    assert cli.UNEXPECTED_EXIT_CODE == PROBLEM_EXIT_CODE == DAMAGED_EXIT_CODE
