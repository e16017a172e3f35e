"""The measurement of start-up: the first step of a run is found, and fresh processes are timed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks import startup


@pytest.mark.runs
def test_first_steps_are_timed_in_fresh_processes(tmp_path: Path) -> None:
    output = tmp_path / "startup.json"
    startup.main(["--quick", "--only", "runs", "--output", str(output)])
    figures = json.loads(output.read_text(encoding="utf-8"))["figures"]
    assert len(figures) == 2 and all("first step" in name for name in figures)
    assert all(len(row["seconds"]) == 1 and row["median"] > 0.5 for row in figures.values())


def test_only_a_step_of_this_run_counts(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"event": "started", "step": 0}\n{"event": "st', encoding="utf-8")
    started = time.perf_counter() - 1.0
    assert not startup._has_stepped(tmp_path, started)
    events.write_text('{"event": "started", "step": 0}\n{"event": "step", "step": 1}\n', encoding="utf-8")
    assert startup._has_stepped(tmp_path, started)
    assert not startup._has_stepped(tmp_path, time.perf_counter() + 60.0)  # what lies there is of an earlier run
