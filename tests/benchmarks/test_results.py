"""Results stay until they are measured again."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import machine, results


def options(output: Path, **more: object) -> argparse.Namespace:
    return argparse.Namespace(**{"output": output, "quick": False, **more})


def test_a_part_that_is_measured_alone_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, path = options(tmp_path / "scaling.json"), tmp_path / "scaling.json"

    def figures_after(settings: dict[str, int], figures: dict[str, int]) -> dict[str, int]:
        results.write("scaling", asked, settings, figures)
        found = results.read(path)
        assert found is not None and found["settings"] == settings
        return dict(found["figures"])

    assert figures_after({"steps": 2}, {"rows": 1, "batch": 2}) == {"rows": 1, "batch": 2}
    assert figures_after({"steps": 2}, {"batch": 3}) == {"rows": 1, "batch": 3}
    assert figures_after({"steps": 5}, {"batch": 4}) == {"batch": 4}, "of other settings"
    known = machine.describe()
    monkeypatch.setattr(machine, "describe", lambda: {**known, "commit": "another"})
    assert figures_after({"steps": 5}, {"rows": 5}) == {"rows": 5}, "of another commit"


def test_options_that_were_named_are_kept(tmp_path: Path) -> None:
    for quick, filled in ((False, 10), (True, 1)):
        asked = options(tmp_path, quick=quick, turns=None, steps=0)
        results.fill(asked, usual={"turns": 10, "steps": 20}, quick={"turns": 1, "steps": 2})
        assert (asked.turns, asked.steps) == (filled, 0)
