"""The comparison of quality: that it runs, and goes on where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import quality
from benchmarks.contenders import original_run
from benchmarks.setting import QUICK, made_up_rows, write_rows, write_tokenizer


@pytest.mark.runs
def test_a_quick_run_is_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "quality.json"
    argv = ["--quick", "--output", str(path), "--work", str(tmp_path / "work"), "--rows", "8"]
    quality.main(argv)
    first = json.loads(path.read_text())
    assert set(first["figures"]["runs"]) == {"ours 0"}
    run = first["figures"]["runs"]["ours 0"]
    assert run["teacher_forwards"] == 8 and run["seconds"] > 0
    assert 0 <= run["validation"] <= 1 and 0 <= run["test"] <= 1
    assert first["figures"]["summary"]["ours"]["test"]["median"] == run["test"]

    def fail(recipe: object) -> dict[str, float]:
        raise AssertionError("a run that is kept was made again")

    monkeypatch.setattr(quality, "_ours", fail)
    quality.main(argv)
    assert "ours 0" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="made again"):
        quality.main([*argv[:-1], "12"])  # other settings: what was kept says nothing about them


@pytest.mark.runs
def test_the_originals_run_judges_its_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our front door of the same name in the original's place, which is not installed where tests run."""
    from stillhouse import textbrewer

    monkeypatch.setitem(sys.modules, "textbrewer", textbrewer)
    setting = {**QUICK.as_dict(), "learning_rate": 1e-3}
    for side, shape in (("teacher", QUICK.teacher), ("student", QUICK.student)):
        write_tokenizer(tmp_path / side, made_up=True)
        shape.model(vocab_size=37).save_pretrained(tmp_path / side)
    data = {split: str(write_rows(tmp_path / f"{split}.jsonl", made_up_rows(12, seed)))
            for seed, split in enumerate(("train", "validation", "test"))}
    job = {"setting": setting, "data": data, "epochs": 2, "seed": 0}
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr(sys, "argv", ["original_run", str(tmp_path)])
    real, judged = original_run.accuracy, []

    def told(model: torch.nn.Module, batches: object) -> float:
        """The first epoch looks better than the second, and the test data see what the first one left."""
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        judged.append((real(model, batches), weights))
        return (0.75, 0.5, 0.25)[len(judged) - 1]

    monkeypatch.setattr(original_run, "accuracy", told)
    original_run.main()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result.pop("seconds") > 0
    assert result == {"validation": 0.75, "test": 0.25}
    (share, first), (_, second), (_, at_test) = judged
    assert share * 12 == pytest.approx(round(share * 12))
    assert torch.equal(at_test, first) and not torch.equal(at_test, second)
