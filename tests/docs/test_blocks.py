"""Every block of every page is true: Python runs, recipes are valid, command lines exist, guides work as written."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonschema import Draft7Validator

from stillhouse import plugins, presets
from stillhouse.errors import ConfigError
from stillhouse.recipe.json_schema import recipe_schema
from stillhouse.recipe.schema import Recipe
from tests.docs import command_lines, world
from tests.docs.pages import PAGES, ROOT, SHELL, Block, blocks_in, blocks_of, inline_commands

GUIDES = tuple(page for page in PAGES if page in ("docs/quick-start.md", "docs/python.md")
               or page.startswith("docs/how-to/"))
"""Pages whose command lines are run too, from top to bottom, in a folder with the files that the page shows."""

RUN_ELSEWHERE: Mapping[str, str] = {"docs/other-loops.md": "tests/test_other_loops.py"}
"""Pages whose Python needs more than `world` has, each with the test that runs it."""

DATA: Mapping[str, dict[str, Any]] = {
    "sentence-embedding": {"train": "train.txt", "validation": "pairs.csv"},
}
"""What is filled in where a part of a recipe leaves ``data`` out; for other tasks a training file."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the page's own. Names that it registers are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    (tmp_path / "my-teacher").mkdir()
    world.save_teacher(tmp_path / "my-teacher")
    maps: list[Any] = [presets.KD_LOSS_MAP, presets.MATCH_LOSS_MAP, presets.PROJ_MAP, presets.WEIGHT_SCHEDULER,
                       presets.TEMPERATURE_SCHEDULER, presets.TEACHER_FUNCTIONS]
    before = [set(known) for known in maps]
    yield tmp_path
    for known, kept in zip(maps, before, strict=True):
        for name in set(known) - kept:
            del known[name]
    plugins._loaded.clear()


def whole_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """A part of a recipe with what it leaves out; a recipe of stages needs only a folder."""
    if "stages" in values:
        return {"output": "runs/page", **values}
    task = values.get("task", "text-classification")
    skeleton = {"task": task, "teacher": {"model": "my-teacher"}, "student": {"shape": "T3"}, "output": "runs/page"}
    data = {**DATA.get(task, {"train": "train.csv"}), **values.get("data", {})}
    return {**skeleton, **values, "data": data}


class Page:
    """One page on its way from top to bottom."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, runs_commands: bool) -> None:
        self.folder, self.names = folder, world.names()
        self._monkeypatch, self._runs_commands = monkeypatch, runs_commands
        self._printed: str | None = None

    def take(self, block: Block) -> None:
        """Do what the block says. Fails at the first thing that is not as the page says."""
        if block.title == "prints":
            assert block.text == self._printed, f"{block.place}: the code above prints\n{self._printed}"
        elif block.title is not None:
            world.write(self.folder, block.title, block.text)
        if block.reason is None:
            takers: Mapping[str, Callable[[Block], None]] = {"python": self._python, "yaml": self._yaml}
            take = self._shell if block.language in SHELL else takers.get(block.language, lambda block: None)
            take(block)

    def _python(self, block: Block) -> None:
        code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self.names)
        self._printed = printed.getvalue()

    def _yaml(self, block: Block) -> None:
        values = yaml.safe_load(block.text)
        recipe = whole_recipe(values)
        assert Recipe.from_dict(recipe).output, block.place
        assert not [error.message for error in Draft7Validator(recipe_schema()).iter_errors(recipe)], block.place
        if self._runs_commands:
            world.save_models(self.folder, values)

    def _shell(self, block: Block) -> None:
        for line in command_lines.lines_of(block.text) if self._runs_commands else ():
            command = command_lines.stillhouse_command(line)
            assert command is None or command_lines.run(command, self._monkeypatch) == 0, f"{block.place}: {line}"


AFTERWARDS: Mapping[str, Callable[[dict[str, Any], Path], bool]] = {
    "README.md": lambda names, folder: names["seen"] == [3, 6] and (folder / "saved_models/gs6").is_dir(),
    "docs/from-textbrewer.md": lambda names, folder: names["seen"] == [3, 6],
    "docs/extending.md": lambda names, folder: bool(names["result"].steps == 4),
}
"""What must be so after the last block of a page, beside that all of them ran."""


@pytest.mark.runs
@pytest.mark.parametrize("page", [page for page in PAGES if {"python", "yaml"} & {b.language for b in blocks_of(page)}])
def test_a_page_works_from_top_to_bottom(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Page(folder, monkeypatch, runs_commands=page in GUIDES)
    for block in blocks_of(page):
        if not (block.language == "python" and page in RUN_ELSEWHERE):
            reader.take(block)
    assert page not in AFTERWARDS or AFTERWARDS[page](reader.names, folder)


@pytest.mark.parametrize(("text", "problem"), [
    ("```python\nmissing\n```", "missing"),
    ("```python\nprint(1)\n```\n```text title=\"prints\"\n2\n```", "the code above prints"),
    ("```yaml\ntask: text-classification\nteachr: {}\n```", "teachr"),
    ("```yaml\ndistillation: {loss: none}\n```", "none"),
    ("```bash\nstillhouse plan recipe.yaml\n```", "recipe.yaml"),
])
def test_what_a_page_says_wrongly_is_found(text: str, problem: str, folder: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Page(folder, monkeypatch, runs_commands=True)
    with pytest.raises((AssertionError, NameError, ConfigError), match=problem):
        for block in blocks_in(text, "page.md"):
            reader.take(block)


def test_what_is_marked_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marked, plain = blocks_in("<!-- not run: a reason -->\n```python\nfirst = 1\n```\n```python\nsecond = 2\n```",
                              "page.md")
    reader = Page(folder, monkeypatch, runs_commands=True)
    reader.take(marked)
    reader.take(plain)
    assert "first" not in reader.names and reader.names["second"] == 2


@pytest.mark.parametrize("page", sorted(RUN_ELSEWHERE))
def test_a_page_that_is_run_elsewhere_is_run_there(page: str) -> None:
    assert Path(page).name in (ROOT / RUN_ELSEWHERE[page]).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_of_a_page_exists(page: str) -> None:
    for block in blocks_of(page):
        for line in command_lines.lines_of(block.text) if block.language in SHELL else ():
            command = command_lines.stillhouse_command(line)
            problem = None if command is None else command_lines.problem_of(command.words)
            assert problem is None, f"{block.place}: {line}: {problem}"
    for number, words in inline_commands(page):
        problem = command_lines.problem_of(tuple(words.split()[1:]), whole=False)
        assert problem is None, f"{page}:{number}: {words}: {problem}"


@pytest.mark.parametrize("page", PAGES)
def test_every_target_script_and_module_of_a_page_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks_of(page):
        for line in command_lines.lines_of(block.text) if block.language in SHELL else ():
            for target in re.findall(r"^make ([\w-]+)", line):
                assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{block.place}: make {target}"
            for script in re.findall(r"^python (\S+\.py)", line):
                assert (ROOT / script).exists() or (ROOT / "recipes" / script).exists(), f"{block.place}: {script}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    known = {"python", "yaml", "json", "jsonl", "csv", "text", "toml", "bibtex", *SHELL}
    assert {block.language for block in blocks_of(page)} - known <= {""}
    assert "```yml" not in (ROOT / page).read_text(encoding="utf-8")


def test_the_guides_are_found() -> None:
    assert {"docs/quick-start.md", "docs/python.md"} < set(GUIDES) and len(GUIDES) == 8
