"""Promises of ``stillhouse predict`` and ``stillhouse evaluate``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from stillhouse.errors import ConfigError, DataError, PlanError
from stillhouse.finished import evaluate, predict
from stillhouse.finished.commands import evaluate_command, predict_command

from .conftest import Finished

pytestmark = pytest.mark.runs

Get = Callable[[str], Finished]

app = typer.Typer()
app.command("predict")(predict_command)
app.command("evaluate")(evaluate_command)

_PREDICT = "import typer; from stillhouse.finished.commands import predict_command; typer.run(predict_command)"
_HEAVY = """
import sys, stillhouse.finished.commands
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def invoke(*words: object, given: str = "") -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=given, catch_exceptions=False)


def json_lines(text: str) -> list[object]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_becomes_json_lines(finished: Get, tmp_path: Path) -> None:
    run = finished("single")
    expected = predict(run.output, run.files["test"])
    result = invoke("predict", run.output, run.files["test"])
    assert result.exit_code == 0 and json_lines(result.stdout) == expected
    out = tmp_path / "said.jsonl"
    result = invoke("predict", run.output, run.files["test"], "--output", out, "--batch-size", 2)
    assert not result.stdout and [set(row) for row in json_lines(out.read_text("utf-8"))] == [
        set(row) for row in expected]
    assert [path.name for path in tmp_path.iterdir()] == ["said.jsonl"]


def test_standard_input_is_objects_or_plain_texts(finished: Get) -> None:
    run = finished("multi")
    expected = predict(run.output, ["a b", "c é"])
    plain = invoke("predict", run.output, given="a b\n\nc é\n")
    objects = invoke("predict", run.output, "--set", "text=line", given='{"line": "a b"}\n{"line": "c é", "id": 7}\n')
    assert json_lines(plain.stdout) == json_lines(objects.stdout) == expected
    assert "c é" in plain.stdout  # readable, not \u00e9
    assert invoke("predict", run.output, given="").stdout == ""


def test_a_reader_that_has_enough_may_go(finished: Get, tmp_path: Path) -> None:
    """As ``head -1`` does, before the writer has written all."""
    (tmp_path / "many.txt").write_text("a b\n" * 5_000)
    command = [sys.executable, "-c", _PREDICT, str(finished("multi").output)]
    with (tmp_path / "many.txt").open("rb") as given, subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert json.loads(process.stdout.readline())["text"] == "a b"
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(timeout=120) == 0 and b"rror" not in told, told


def test_nothing_half_written_is_left(finished: Get, tmp_path: Path) -> None:
    run = finished("multi")
    with pytest.raises(DataError, match="standard input, line 2: not readable as JSON"):
        invoke("predict", run.output, "--output", tmp_path / "said.jsonl", given='{"text": "a"}\n{"text"\n')
    assert not any(tmp_path.iterdir())
    with pytest.raises(PlanError, match="fill-mask"):
        invoke("predict", finished("masks").output, given="a\n")


@pytest.mark.parametrize(("output", "problem"), [
    (".", r"--output '\.' is a folder; name a file, as in --output said\.jsonl"),
    ("folder", r"--output 'folder' is a folder; name a file, as in --output folder/said\.jsonl"),
    ("file/said.jsonl", r"--output 'file/said\.jsonl' cannot be written: /.*/file is no folder; name another"),
    ("file/new/said.jsonl", r"--output 'file/new/said\.jsonl' cannot be written: /.*/file is no folder"),
])
def test_a_place_for_no_file_is_refused_before_a_run_is_opened(
        output: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=problem):
        invoke("predict", "no-run", "--output", output, given="a\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_folders_that_are_missing_are_made(finished: Get, tmp_path: Path) -> None:
    run = finished("multi")
    with pytest.raises(DataError, match="not readable as JSON"):
        invoke("predict", run.output, "--output", tmp_path / "a" / "b" / "said.jsonl", given='{"text": "a"}\n{"text"\n')
    assert not any(tmp_path.iterdir())
    invoke("predict", run.output, "--output", tmp_path / "a" / "b" / "said.jsonl", given="a\n")
    assert json_lines((tmp_path / "a" / "b" / "said.jsonl").read_text("utf-8")) == predict(run.output, ["a"])


def test_where_nothing_may_be_written_is_refused_before_a_run_is_opened(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(ConfigError, match=f"you may not write to {tmp_path}; name another file"):
        invoke("predict", "no-run", "--output", tmp_path / "new" / "said.jsonl", given="a\n")


def test_evaluate_prints_a_table_or_json(finished: Get) -> None:
    run = finished("single")
    expected = evaluate(run.output, run.files["test"])
    table = invoke("evaluate", run.output, "--data", run.files["test"]).stdout
    first, *others = table.splitlines()
    assert first == "text-classification, 14 rows"
    assert others[0].split()[0] == "accuracy" and len(others) == len(expected["metrics"])
    assert f"{expected['metrics']['accuracy']:.4f}" in others[0]
    assert json.loads(invoke("evaluate", run.output, "--data", run.files["test"], "--json").stdout) == expected


def test_a_models_task_and_columns_can_be_given(finished: Get, tmp_path: Path) -> None:
    run = finished("multi")
    rows = [{"sentence": row["text"], "topics": row["label"]} for row in run.rows()]
    (tmp_path / "other.json").write_text(json.dumps(rows))
    words = ["--data", tmp_path / "other.json", "--set", "text=sentence", "--set", "label=topics", "--json"]
    found = json.loads(invoke("evaluate", run.output / "student", *words).stdout)
    assert found == evaluate(run.output, run.files["test"])
    with pytest.raises(ConfigError, match="has no trained head for question-answering"):
        invoke("evaluate", run.output / "student", *words, "--task", "question-answering")


def test_the_commands_are_light_to_import() -> None:
    found = subprocess.run([sys.executable, "-c", _HEAVY], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
