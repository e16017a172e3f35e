"""Promises of the commands: nothing is overwritten unasked, the next commands are named, nothing heavy comes early."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillhouse.errors import ConfigError
from stillhouse.recipe import load_recipe
from stillhouse.setting_up import doctor
from stillhouse.setting_up.doctor import Finding

from .conftest import app, labelled, write


def call(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_recipe_is_written_and_the_next_commands_are_named(folder: Path, teacher: str) -> None:
    path = write(folder / "mine.csv", labelled())
    said = call("init", path, "--text", "question", "--label", "intent", "--teacher", teacher, "--student", "half")
    assert "3 labels (blue, green, red); rows: train 27, validation 3 (held out)" in said
    assert said.splitlines()[-2:] == ["  stillhouse plan recipe.yaml", "  stillhouse run recipe.yaml"]
    assert "note: 27 training rows" in said
    assert load_recipe("recipe.yaml").output == "runs/mine"
    assert sorted(path.name for path in folder.iterdir()) == ["mine.csv", "recipe.yaml"]


def test_a_pair_may_be_given_in_both_ways(folder: Path) -> None:
    path = write(folder / "mine.csv", labelled())
    for number, words in enumerate((["--text", "question,author"], ["--text", "question", "--text", "author"])):
        call("init", "--data", path, *words, "--yes", "--recipe", f"{number}.yaml")
    assert (folder / "0.yaml").read_text().replace("0.yaml", "1.yaml") == (folder / "1.yaml").read_text()
    assert "text_pair: author" in (folder / "0.yaml").read_text()


def test_a_recipe_that_is_there_is_kept(folder: Path) -> None:
    path = write(folder / "mine.csv", labelled())
    (folder / "recipe.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"recipe.yaml is there already; give --overwrite .* --recipe FILE"):
        call("init", path, "--yes")
    assert (folder / "recipe.yaml").read_text() == "mine"
    call("init", path, "--yes", "--overwrite")
    assert load_recipe("recipe.yaml").task == "text-classification"


def test_nothing_is_written_after_an_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no terminal"):
        call("init", write(folder / "mine.csv", labelled()))
    with pytest.raises(ConfigError, match="given twice"):
        call("init", "mine.csv", "--data", "other.csv")
    with pytest.raises(ConfigError, match="there is no folder"):
        call("init", "mine.csv", "--yes", "--recipe", "nowhere/recipe.yaml")
    assert [path.name for path in folder.iterdir()] == ["mine.csv"]


def test_a_person_at_a_terminal_is_asked_again_after_a_mistake(folder: Path, teacher: str) -> None:
    """With a real pseudo-terminal, as nothing else shows whether one is seen."""
    write(folder / "mine.csv", labelled())
    primary, secondary = pty.openpty()
    answers = ["nowhere.csv", "mine.csv", "qestion", "", "", teacher, "T33", "T3"]
    os.write(primary, "".join(f"{answer}\n" for answer in answers).encode())
    code = "from tests.setting_up.conftest import app; app()"
    root = str(Path(__file__).parents[2])
    process = subprocess.run([sys.executable, "-c", code, "init"], stdin=secondary, capture_output=True, text=True,
                             timeout=120, check=False, env={**os.environ, "PYTHONPATH": root})
    os.close(primary)
    os.close(secondary)
    assert process.returncode == 0, process.stderr
    for said in ("there is no file", "did you mean 'question'", "[question]", "[intent]", "did you mean 'T3'"):
        assert said in process.stderr
    assert process.stdout.splitlines()[-1] == "  stillhouse run recipe.yaml"
    assert load_recipe(folder / "recipe.yaml").teacher.model == teacher


def test_the_doctors_findings_are_lines_or_json(folder: Path) -> None:
    lines = call("doctor").splitlines()
    findings = json.loads(call("doctor", "--json"))["findings"]
    assert len(lines) == len(findings)
    for line, finding in zip(lines, findings, strict=True):
        level, rest = line.split(maxsplit=1)
        assert level == finding["level"] and rest.startswith(finding["what"])


@pytest.mark.parametrize(("level", "exit_code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_what_cannot_work_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, level: doctor.Level, exit_code: int
) -> None:
    monkeypatch.setattr(doctor, "examined", lambda online: [Finding(level, "a thing", "as it is")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == exit_code and result.output == f"{level:<4}  a thing  as it is\n"


def test_the_commands_import_nothing_heavy(folder: Path) -> None:
    code = ("import sys; import stillhouse.setting_up.commands\n"
            "print(sorted({'torch', 'transformers', 'datasets', 'pydantic'} & set(sys.modules)))")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}).stdout
    assert said.strip() == "[]"
