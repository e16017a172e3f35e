"""The measurements of growth: that they run, and that their JSON has what the pages show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cache_growth, scaling


@pytest.mark.distributed
def test_two_processes_take_turns_with_one(tmp_path: Path) -> None:
    output = tmp_path / "scaling.json"
    scaling.main(["--quick", "--only", "ranks", "--output", str(output)])
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written["name"] == "scaling" and written["quick"] and written["machine"]["cores"] >= 1
    one, two = written["figures"]["ranks"]
    assert (one["name"], two["name"]) == ("one process", "two processes")
    assert all(row["median"] > 0 and row["peak_rss_mb"] > 0 for row in (one, two))
    assert two["peak_rss_mb"] > 1.5 * one["peak_rss_mb"]  # that of both


def test_a_job_holds_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    options = scaling.parser().parse_args(["--quick"])
    options.steps, options.turns = 2, 1
    job = scaling._job(options, scaling.QUICK, tmp_path, 100)
    assert job.num_rows == 96 and len((tmp_path / "train.jsonl").read_text().splitlines()) == 96
    assert scaling._job(options, scaling.QUICK, tmp_path, 1).num_rows == 16  # what one turn and the warm-up need


def test_a_store_grows_and_every_row_in_it_is_found(tmp_path: Path) -> None:
    small, large = cache_growth.grow(tmp_path, [64 * cache_growth.ROW_BYTES, 128 * cache_growth.ROW_BYTES], 3)
    assert (small["rows"], large["rows"]) == (64, 128)
    assert small["size_bytes"] < large["size_bytes"]
    assert large["size_bytes"] == pytest.approx(128 * cache_growth.ROW_BYTES, rel=0.5)
    assert all(row["read_rows_per_second"] > 0 and row["written_rows_per_second"] > 0 for row in (small, large))
