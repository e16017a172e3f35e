"""Promises of a whole run: what lies in the run folder, what is used again, and what an interruption changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe, run
from stillhouse.tasks.pretrained import quiet_transformers
from stillhouse.training import Sink
from stillhouse.training.events import CheckpointSaved, Event

from .conftest import LABELS, MakeRecipe, make_rows

pytestmark = pytest.mark.runs


class Stop(Sink):
    """Raises when the n-th checkpoint of the whole run is told."""

    def __init__(self, checkpoint: int) -> None:
        self.left = checkpoint

    def emit(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def student_weights(output: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(output) / "student" / "model.safetensors")


def without_timing(value: Any) -> Any:
    """Events and metrics without what a clock or a speed decides."""
    if isinstance(value, dict):
        return {key: without_timing(item) for key, item in value.items()
                if not key.endswith(("_s", "_ms")) and key not in ("wall_time_s", "teacher_forwards")}
    return value


def events(output: str | Path) -> list[Any]:
    lines = (Path(output) / "events.jsonl").read_text().splitlines()
    return [without_timing(json.loads(line)) for line in lines]


def test_a_run_with_contrast_leaves_a_whole_run_folder(make_recipe: MakeRecipe, console: Console) -> None:
    recipe = Recipe.from_dict(make_recipe(contrast="no_teacher"))
    result = run(recipe, console=console)
    assert {path.name for path in result.output.iterdir()} == {
        "recipe.yaml", "events.jsonl", "events.teacher.jsonl", "events.contrast.jsonl", "metrics.json", "checkpoints",
        "student"}
    assert Recipe.from_dict(yaml.safe_load((result.output / "recipe.yaml").read_text())) == recipe
    metrics = json.loads((result.output / "metrics.json").read_text())
    assert metrics == result.metrics
    for name in ("teacher", "student"):
        assert 0 <= metrics[name]["accuracy"] <= 1 and 0 <= metrics[name]["validation"]["macro_f1"] <= 1
        assert metrics[name]["latency_ms"] > 0 and metrics[name]["throughput_rows_per_s"] > 0
        assert metrics[name]["size_bytes"] == pytest.approx(4 * metrics[name]["parameters"], rel=0.02)
    assert metrics["student"]["parameters"] < metrics["teacher"]["parameters"]
    assert metrics["retention"] == metrics["student"]["accuracy"] / metrics["teacher"]["accuracy"]
    assert metrics["teacher_forwards"] == {
        "distillation": len({row["text"] for row in make_rows("train")}), "evaluation": 24 + 30}
    assert set(metrics["wall_time_s"]) >= {"teacher_training", "distillation", "contrast", "evaluation", "total"}
    assert metrics["contrast"]["steps"] == metrics["student"]["steps"] == 12
    assert metrics["split"] == "test" and metrics["versions"]["torch"] == torch.__version__
    assert metrics["teacher"]["accuracy"] > 0.5  # a third is guessing

    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(result.student_dir)
        tokenizer = AutoTokenizer.from_pretrained(result.student_dir)
        ask = pipeline("text-classification", model=str(result.student_dir))
    assert model.config.id2label == dict(enumerate(sorted(LABELS))) or set(model.config.id2label.values()) == set(LABELS)
    rows = make_rows("test")
    answers = ask([row["text"] for row in rows])
    right = sum(answer["label"] == row["colour"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(metrics["student"]["accuracy"])
    assert tokenizer("a b")["input_ids"]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "fine-tuning" in said and "teacher cache: in" in said and "the student keeps" in said


def test_a_second_student_uses_teacher_and_cache_again(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    first = run(Recipe.from_dict(make_recipe()), console=console)
    other = make_recipe(student={"layers": [3]}, output=str(tmp_path / "second"), training={"seed": 3},
                        distillation={"matches": {"layers": "last", "losses": ["hidden_mse"]}})
    second = run(Recipe.from_dict(other), console=console)
    assert "fine-tuned before, taken from" in console.file.getvalue()  # type: ignore[attr-defined]
    assert second.metrics["wall_time_s"]["teacher_training"] == 0
    # Layer 3 of the teacher is new to the cache only if the first run did not store it: uniform stored 0, 2 and 4.
    assert second.metrics["teacher_forwards"]["distillation"] == 0 or "last" in str(other)
    assert second.metrics["teacher"]["accuracy"] == first.metrics["teacher"]["accuracy"]
