"""The measurement on a GPU runs small on a CPU, and its JSON has what the pages show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.setting import write_rows


@pytest.mark.runs
def test_it_runs_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, rows = tmp_path / "gpu.json", tmp_path / "rows.jsonl"
    write_rows(rows, [{"sentence": f"{name} made a {kind} film", "label": int(kind == "good")}
                      for name in "abcdefghijklmnopqrstuvwxyz" for kind in ("good", "dull", "long", "short")])
    gpu.main(["--quick", "--rows", str(rows), "--output", str(output)])
    figures = json.loads(output.read_text(encoding="utf-8"))["figures"]
    assert figures["left_out"] == [] and figures["peak"]["measured_tflops"] > 0
    assert [cell["way"] for cell in figures["cells"]] == 2 * list(gpu.WAYS)
    for cell in figures["cells"]:
        assert cell["rows_per_second"]["median"] == pytest.approx(1000 * cell["batch_size"] / cell["step_ms"], rel=0.5)
        assert 0 < cell["share_of_peak"] == pytest.approx(cell["tflops"] / figures["peak"]["measured_tflops"])
        assert bool(cell["phases_ms"]) is (cell["way"] != "minimal loop")
        asks = cell["way"] in ("live teacher", "first epoch")
        assert (cell["teacher_rows"] > 0) is asks
        assert (cell["phases_ms"].get("teacher", 0) > 0) is asks
    long = [cell["padded_length"] for cell in figures["cells"] if cell["sequences"] == "128 tokens"]
    short = [cell["padded_length"] for cell in figures["cells"] if cell["sequences"] == "like SST-2"]
    assert min(long) > max(short)
    assert "like SST-2, 4, later epochs" in capsys.readouterr().out


def test_what_the_time_does_not_allow_is_named(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    gpu.main(["--quick", "--seconds", "0", "--output", str(output)])
    figures = json.loads(output.read_text(encoding="utf-8"))["figures"]
    assert figures["cells"] == [] and len(figures["left_out"]) == 2 * len(gpu.WAYS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_machine_without_a_gpu_is_told() -> None:
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main([])


def test_every_group_has_steps_for_all_that_is_measured() -> None:
    for group in gpu.GROUPS:
        for size, pace in group.batches.items():
            assert pace.num_steps * size <= group.num_rows
            assert pace.num_steps >= pace.warm_up + pace.steps * pace.stretches + 2 * pace.profiled
