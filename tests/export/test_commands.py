"""The command: what it prints, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which needs onnx

import typer
from typer.testing import CliRunner

from stillhouse.errors import ConfigError
from stillhouse.export import Exported, exporting, packages
from stillhouse.export.commands import export_command

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(export_command)


def test_it_prints_what_was_measured(exported_of: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch) -> None:
    exported = exported_of("single")
    asked: dict[str, Any] = {}

    def export_onnx(run: str, **options: Any) -> Exported:
        asked.update(options, run=run)
        return exported

    monkeypatch.setattr(exporting, "export_onnx", export_onnx)
    result = CliRunner().invoke(app, ["a-run", "--format", "onnx", "--int8", "--output", "there", "--rows", "9"])
    assert result.exit_code == 0, result.output
    assert (asked["run"], asked["int8"], asked["output"], asked["num_rows"]) == ("a-run", True, Path("there"), 9)
    assert "accuracy on 40 rows of the test data:" in result.output
    before, after = exported.metrics["torch fp32"]["accuracy"], exported.metrics["onnx int8"]["accuracy"]
    assert f"{before:.4f} in torch fp32" in result.output
    assert f"{after:.4f} in onnx int8" in result.output
    lines = result.output.splitlines()
    teacher = next(line for line in lines if line.startswith("teacher"))
    assert f"{exported.latency[0].by_batch['32']['ms']:,.1f}" in teacher.split()
    assert any(line.startswith(str(exported.int8_path)) for line in lines)


def test_an_unknown_format_is_refused_with_the_known_one() -> None:
    result = CliRunner().invoke(app, ["a-run", "--format", "onyx"])
    assert isinstance(result.exception, ConfigError)
    assert "unknown format 'onyx': did you mean 'onnx'?" in str(result.exception)


def test_missing_packages_are_named_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "onnxruntime" else sys)
    result = CliRunner().invoke(app, ["a-run"])
    assert isinstance(result.exception, ConfigError)
    assert 'onnxruntime is not installed; install them: pip install "stillhouse[export]"' in str(result.exception)
