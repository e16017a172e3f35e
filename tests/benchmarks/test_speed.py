"""The comparison of speed: its ratios, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import speed
from benchmarks.setting import QUICK, Job


def test_ratios_are_medians_over_turns_of_what_was_measured_in_the_same_turn() -> None:
    seconds = {"original": [30.0, 40.0, 50.0], "ours, first epoch": [10.0, 10.0, 10.0],
               "ours, later epochs": [2.0, 1.0, 2.0]}
    found = speed.ratios(seconds)
    assert set(found) == {"first epoch / original", "later epochs / original", "ten epochs / original"}
    assert found["first epoch / original"] == {"median": 4.0, "low": 3.0, "high": 5.0, "of_totals": 4.0}
    assert found["later epochs / original"] == {"median": 25.0, "low": 15.0, "high": 40.0, "of_totals": 24.0}
    assert found["ten epochs / original"]["median"] == pytest.approx(500 / 28)
    assert found["ten epochs / original"]["of_totals"] == pytest.approx(1200 / 75)
    job = Job(Path(), QUICK, warmup_steps=1, turn_steps=3, num_turns=3)  # 1 + 9 steps
    assert speed.ten_epochs(seconds, job) == {"original": pytest.approx(400 * 10 / 3),
                                              "ours": pytest.approx((10 + 9 * 2) * 10 / 3)}


@pytest.mark.runs
def test_a_quick_run_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, names = tmp_path / "speed.json", ["trainer, tuned", "minimal loop", "ours, live teacher, all word embeddings"]
    command.main(["speed", "--quick", "--output", str(path), "--turns", "2", "--steps", "1",
                  *(word for name in names for word in ("--only", name))])
    result = json.loads(path.read_text())
    assert result["name"] == "speed" and result["quick"]
    assert result["machine"]["cpu"] and result["machine"]["versions"]["torch"] and result["machine"]["commit"]
    assert result["settings"]["batch_size"] * (1 + 2) == result["settings"]["rows"]
    speeds = result["figures"]["rows_per_second"]
    assert list(speeds) == names
    assert all(len(values) == 2 and min(values) > 0 for values in speeds.values())
    assert set(result["figures"]["ratios"]) == {"live teacher / minimal loop"}
    assert set(result["figures"]["peak_rss_mb"]) == set(names)
    assert "live teacher / minimal loop" in capsys.readouterr().out


def test_an_unknown_benchmark_is_refused_with_the_known_names() -> None:
    with pytest.raises(SystemExit, match=r"(?s)'sped'.*speed.*quality"):
        command.main(["sped"])


def test_data_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"does not hold SST-2.*--data"):
        command.main(["speed", "--data", str(tmp_path)])


def test_a_part_of_the_comparison_does_not_replace_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["speed", "--only", "minimal loop"])
    assert "name another file with --output" in capsys.readouterr().err

