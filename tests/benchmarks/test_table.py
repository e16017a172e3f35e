"""The pages say what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results, table

PAGE = "before\n<!-- results: {} -->\nold text\n<!-- end of results -->\nafter\n"
MACHINE = {"cpu": "a processor", "cores": 2, "threads": 2, "memory_gb": 8.0, "gpus": [], "fast_bf16": False,
           "versions": {"torch": "2.13.0"}, "commit": "abc1234"}
CELL = {"student": "T4-tiny", "sequences": "128 tokens", "batch_size": 512, "way": "live teacher",
        "rows_per_second": {"median": 12345.6, "low": 12000.0, "high": 13000.0}, "step_ms": 41.5, "tflops": 247.25,
        "share_of_peak": 0.3091, "peak_memory_gb": 3.25, "phases_ms": {"teacher": 20.5, "rest": 1.25}}
SPREAD = {"median": 2.0, "low": 1.0, "high": 3.0}
GROWN = [{"name": "2,000 rows", **SPREAD, "rows_per_second": [1.0, 2.0, 3.0], "peak_rss_mb": 512}]
FIGURES: dict[str, dict[str, Any]] = {
    "speed": {
        "rows_per_second": {"original": [18.0, 17.0, 19.0]}, "peak_rss_mb": {"original": 900},
        "ratios": {"ten epochs / original": {"median": 18.25, "low": 17.0, "high": 19.5, "of_totals": 18.0}}},
    "quality": {"summary": {"ours": {"validation": {"median": 0.8125, "low": 0.8, "high": 0.82},
                                     "test": {"median": 0.8, "low": 0.79, "high": 0.81},
                                     "seconds": {"median": 61.0, "low": 60.0, "high": 62.0}}}},
    "scaling": {"rows": GROWN, "cache": [{
        "size_bytes": 2.1e9, "rows": 125000, "written_rows_per_second": 2000.0, "read_ms_a_batch": 0.5,
        "read_ms_a_batch_p99": 0.75, "anonymous_mb": 165}]},
    "startup": {"stillhouse --help": {**SPREAD, "seconds": [1.0, 2.0, 3.0]}},
    "gpu": {"peak": {"measured_tflops": 800.0, "datasheet_tflops": 989.4}, "cells": [CELL], "left_out": [
        {"student": "six layers", "sequences": "128 tokens", "batch_size": 512, "way": "first epoch"}]},
}


def found(*names: str) -> Mapping[str, dict[str, Any]]:
    return {name: {"figures": FIGURES[name], "machine": {**MACHINE, "gpus": ["a card"] if name == "gpu" else []}}
            for name in names}


def block(marker: str, results_found: Mapping[str, dict[str, Any]]) -> str:
    page = table.filled(PAGE.format(marker), results_found)
    before, text, after = re.split(r"<!-- .* -->\n", page)
    assert (before, after) == ("before\n", "after\n")
    return text


@pytest.mark.parametrize("page", table.PAGES, ids=lambda page: page.name)
def test_the_page_is_what_the_results_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    now = table.filled(text, table.read_results(results.RESULTS_DIR))
    assert text == now, "run python -m benchmarks.table"


def test_every_result_has_its_place() -> None:
    markers = [marker for page in table.PAGES
               for marker in re.findall(r"<!-- results: (\S+) -->", page.read_text(encoding="utf-8"))]
    assert sorted(markers) == sorted(table.BLOCKS)


@pytest.mark.parametrize("marker", table.BLOCKS)
def test_what_was_not_measured_says_so(marker: str) -> None:
    assert block(marker, {}) == table.NOT_MEASURED + "\n"


@pytest.mark.parametrize(("marker", "name", "cells"), [
    ("speeds", "speed", "original | 18.0 | 17.0 | 19.0 | 900"),
    ("ratios", "speed", "ten epochs / original | 18.25 | 17.00 | 19.50 | 18.00 | 15 (goal 20)"),
    ("summary", "speed", "ten epochs / original | 18.2 times as fast"),
    ("summary", "gpu", "12,346 rows a second"),
    ("quality", "quality", "ours | 81.25 % | 80.00 % | 82.00 % | 80.00 % | 79.00 % | 81.00 % | 61"),
    ("rows", "scaling", "2,000 rows | 2 | 1 | 3 | 512"),
    ("cache", "scaling", "2,100 MB | 125,000 | 2,000 | 0.50 | 0.75 | 165"),
    ("startup", "startup", "stillhouse --help | 2.00 | 1.00 | 3.00"),
    ("gpu", "gpu", "live teacher | 12,346 | 41.5 | 247 | 30.9 % | 25.0 % | 3.2"),
    ("gpu-phases", "gpu", "live teacher | 20.5 | 1.2"),
])
def test_a_table_shows_the_figures(marker: str, name: str, cells: str) -> None:
    assert cells in block(marker, found(name))


def test_a_table_names_its_machine_and_what_it_lacks() -> None:
    text = block("gpu", found("gpu"))
    assert "a card, a processor, 2 cores" in text and "commit abc1234" in text
    assert "for lack of time: six layers, 128 tokens, 512, first epoch" in text


def test_a_part_that_was_not_run_is_not_measured() -> None:
    assert block("ranks", found("scaling")) == table.NOT_MEASURED + "\n"


def test_a_quick_run_is_no_result(tmp_path: Path) -> None:
    for name, quick in (("speed", True), ("startup", False)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "quick": quick}), encoding="utf-8")
    assert set(table.read_results(tmp_path)) == {"startup"}


def test_a_marker_of_no_result_is_an_error() -> None:
    with pytest.raises(KeyError, match="speedz"):
        table.filled(PAGE.format("speedz"), {})


def test_a_page_behind_the_results_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.format("startup"), encoding="utf-8")
    for name, value in (("PAGES", (page,)), ("REPOSITORY", tmp_path)):
        monkeypatch.setattr(table, name, value)
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path / "none")
    with pytest.raises(SystemExit, match=re.escape("page.md is behind")):
        table.main(["--check"])
    table.main([])
    assert "Not measured." in page.read_text(encoding="utf-8")
    table.main(["--check"])
