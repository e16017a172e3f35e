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

from stillhouse.errors import CheckpointError, ConfigError, NonFiniteLossError, PlanError
from stillhouse.recipe import Recipe, plan, run
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
                if not key.endswith(("_s", "_ms")) and key not in ("latency_by_batch", "teacher_forwards")}
    return value


def events(output: str | Path) -> list[Any]:
    lines = (Path(output) / "events.jsonl").read_text().splitlines()
    return [without_timing(json.loads(line)) for line in lines]


def test_a_run_with_contrast_leaves_a_whole_run_folder(make_recipe: MakeRecipe, console: Console) -> None:
    recipe = Recipe.from_dict(make_recipe(contrast="no_teacher"))
    result = run(recipe, console=console)
    assert {path.name for path in result.output.iterdir()} == {
        "recipe.yaml", "events.jsonl", "events.teacher.jsonl", "events.contrast.jsonl", "metrics.json", "checkpoints",
        "predictions.jsonl", "report.html", "student"}
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
        "distillation": 96, "evaluation": 24 + 30}
    assert set(metrics["wall_time_s"]) >= {"teacher_training", "distillation", "contrast", "evaluation", "total"}
    assert metrics["contrast"]["steps"] == metrics["student"]["steps"] == 12
    assert metrics["split"] == "test" and metrics["versions"]["torch"] == torch.__version__
    assert metrics["teacher"]["accuracy"] > 0.6  # a third is guessing

    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(result.student_dir)
        tokenizer = AutoTokenizer.from_pretrained(result.student_dir)
        ask = pipeline("text-classification", model=str(result.student_dir))
    assert set(model.config.id2label.values()) == set(LABELS)
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
    other = make_recipe(student={"layers": [3]}, output=str(tmp_path / "second"), training={"seed": 3, "batch_size": 7})
    second = run(Recipe.from_dict(other), console=console)
    assert "fine-tuned before, taken from" in console.file.getvalue()  # type: ignore[attr-defined]
    assert first.metrics["teacher_forwards"]["distillation"] == 96
    assert second.metrics["teacher_forwards"]["distillation"] == 0
    assert second.metrics["wall_time_s"]["teacher_training"] == 0
    assert second.metrics["teacher"]["accuracy"] == first.metrics["teacher"]["accuracy"]


def test_the_student_does_not_depend_on_where_answers_are_kept(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    weights = []
    for cache in ("off", "memory", str(tmp_path / "own"), str(tmp_path / "own")):
        result = run(Recipe.from_dict(make_recipe(cache=cache)), console=console, overwrite=True)
        weights.append(student_weights(result.output))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-3, atol=1e-4)
    assert (tmp_path / "own" / "data.mdb").exists()
    torch.testing.assert_close(weights[3], weights[2], rtol=0, atol=0)  # read from the store, or just written


def test_an_interrupted_run_goes_on_to_the_same_result(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(Recipe.from_dict(make_recipe(output=str(tmp_path / "whole"), contrast="no_teacher")), console=console)
    recipe = Recipe.from_dict(make_recipe(contrast="no_teacher"))
    # In the student's training, after its first and its last checkpoint; in the contrast's; and in the teacher's.
    for checkpoint, cache_name in ((1, "cache"), (2, "cache"), (4, "cache"), (2, "empty cache")):
        monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / cache_name))
        with pytest.raises(KeyboardInterrupt):
            run(recipe, console=console, sinks=[Stop(checkpoint)], overwrite=True)
        assert not (Path(recipe.output) / "metrics.json").exists()
        with pytest.raises(ConfigError, match="an unfinished run; give --resume"):
            run(recipe, console=console)
        resumed = run(recipe, resume=True, console=console)
        torch.testing.assert_close(student_weights(resumed.output), student_weights(whole.output), rtol=0, atol=0)
        assert without_timing(resumed.metrics) == without_timing(whole.metrics)
        assert events(resumed.output) == events(whole.output)
        kept = [(one.output / "predictions.jsonl").read_bytes() for one in (resumed, whole)]
        assert kept[0] == kept[1]
    assert run(recipe, resume=True, console=console).metrics == resumed.metrics


_KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from stillhouse.recipe import load_recipe, run
from stillhouse.training import Sink
class Kill(Sink):
    def emit(self, event):
        if event.kind == "step" and event.step == 10 and event.parts.get("kd") is not None:
            os.kill(os.getpid(), signal.SIGKILL)
run(load_recipe(sys.argv[1]), sinks=[Kill()])
"""


def test_a_killed_run_goes_on_to_the_same_result(
    write_recipe: Any, make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    path = write_recipe()
    ended = subprocess.run([sys.executable, "-c", _KILLED, path], env={**os.environ, "PYTHONPATH": os.getcwd()},
                           capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    resumed = run(Recipe.from_dict(make_recipe()), resume=True, console=console)
    whole = run(Recipe.from_dict(make_recipe(output=str(tmp_path / "whole"))), console=console)
    torch.testing.assert_close(student_weights(resumed.output), student_weights(whole.output), rtol=0, atol=0)
    assert events(resumed.output) == events(whole.output)


def test_a_resume_with_another_recipe_is_refused(make_recipe: MakeRecipe, console: Console) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Recipe.from_dict(make_recipe()), console=console, sinks=[Stop(7)])
    changed = Recipe.from_dict(make_recipe(training={"learning_rate": 5e-3}))
    with pytest.raises(ConfigError, match=r"training.learning_rate \(0.002 then, 0.005 now\)"):
        run(changed, resume=True, console=console)


def test_a_resume_with_other_data_is_refused(make_recipe: MakeRecipe, tmp_path: Path, console: Console) -> None:
    train = tmp_path / "own.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in make_rows("train")))
    recipe = Recipe.from_dict(make_recipe(data={"train": str(train)}))
    with pytest.raises(KeyboardInterrupt):
        run(recipe, console=console, sinks=[Stop(2)])
    train.write_text("".join(json.dumps(row) + "\n" for row in make_rows("train")[::-1]))
    with pytest.raises(CheckpointError, match="the data has changed"):
        run(recipe, resume=True, console=console)


def test_a_folder_in_use_is_neither_written_nor_deleted_unasked(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    recipe = Recipe.from_dict(make_recipe())
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"no run has written \(thesis.tex\)"):
            run(recipe, overwrite=overwrite, console=console)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "run" / "thesis.tex").unlink()
    run(recipe, console=console)  # an empty folder is fine
    with pytest.raises(ConfigError, match="a finished run; give --resume to see its results, --overwrite"):
        run(recipe, console=console)


def test_without_test_data_the_validation_data_is_reported(make_recipe: MakeRecipe, console: Console) -> None:
    metrics = run(Recipe.from_dict(make_recipe(data={"test": None})), console=console).metrics
    assert metrics["split"] == "validation"
    assert metrics["student"]["accuracy"] == metrics["student"]["validation"]["accuracy"]


def test_two_stages_build_on_each_other(make_recipe: MakeRecipe, tmp_path: Path, console: Console) -> None:
    values = make_recipe(stages=[
        {"name": "assistant", "student": {"layers": [0, 1, 3]}},
        {"name": "small", "teacher": {"run": "assistant"}, "student": {"num_hidden_layers": 1, "hidden_size": 16},
         "training": {"epochs": 1}},
    ])
    recipe = Recipe.from_dict(values)
    planned = plan(recipe)
    assert "stage assistant\n" in planned and f"{tmp_path / 'run' / 'assistant' / 'student'}, as it is" in planned
    assert "1 layer x 16, 2 heads, from scratch" in planned and not (tmp_path / "run").exists()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, console=console, sinks=[Stop(9)])  # 6 of the teacher, 2 of the assistant, 1 of the small student
    result = run(recipe, resume=True, console=console)
    assert [stage.output for stage in result.stages] == [tmp_path / "run" / "assistant", tmp_path / "run" / "small"]
    assistant, small = (stage.metrics for stage in result.stages)
    assert small["teacher"]["parameters"] == assistant["student"]["parameters"]
    assert small["teacher"]["accuracy"] == assistant["student"]["accuracy"]
    assert small["student"]["steps"] == 6 and assistant["student"]["steps"] == 12
    alone = yaml.safe_load((tmp_path / "run" / "small" / "recipe.yaml").read_text())
    assert alone["teacher"] == {"model": str(tmp_path / "run" / "assistant" / "student")}


def test_a_later_stage_can_train_an_earlier_student_further(make_recipe: MakeRecipe, console: Console) -> None:
    result = run(Recipe.from_dict(make_recipe(stages=[
        {"name": "first", "training": {"epochs": 1}},
        {"name": "second", "student": {"run": "first"}, "training": {"steps": 1, "learning_rate": 1e-9}},
    ])), console=console)
    first, second = (student_weights(stage.output) for stage in result.stages)
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-6)


def test_an_impossible_later_stage_fails_before_the_first_runs(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    recipe = Recipe.from_dict(make_recipe(stages=[
        {"name": "assistant", "student": {"layers": [0, 1]}},
        {"name": "small", "teacher": {"run": "assistant"}, "student": {"layers": [2]}},
    ]))
    with pytest.raises(PlanError, match="layer 2 does not exist"):
        run(recipe, console=console)
    assert not (tmp_path / "run").exists()


def test_early_stopping_and_steps_and_accumulation(make_recipe: MakeRecipe, console: Console) -> None:
    training = {"epochs": None, "steps": 20, "accumulation": 2, "batch_size": 8, "evaluate_every": "2 steps",
                "early_stopping": 2, "learning_rate": 1e-9}
    metrics = run(Recipe.from_dict(make_recipe(training=training)), console=console).metrics
    assert metrics["student"]["stopped"] == "early stopping"
    assert metrics["student"]["best_step"] == 2 and metrics["student"]["steps"] == 6


def test_gradient_checkpointing_changes_nothing_but_memory(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    weights = []
    for enabled in (False, True):
        training = {"gradient_checkpointing": enabled, "epochs": 1}
        recipe = make_recipe(training=training, output=str(tmp_path / str(enabled)))
        weights.append(student_weights(run(Recipe.from_dict(recipe), console=console).output))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


def test_overwriting_removes_only_what_a_run_wrote(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.from_dict(make_recipe(training={"epochs": 1}))
    run(recipe, console=console)
    first = student_weights(recipe.output)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"no run has written \(notes.txt\)"):
        run(recipe, overwrite=True, console=console)
    assert run(recipe, resume=True, console=console).metrics["student"]["steps"] == 6
    (tmp_path / "run" / "notes.txt").unlink()
    (tmp_path / "run" / "metrics.json").unlink()
    run(recipe, overwrite=True, console=console)
    torch.testing.assert_close(student_weights(recipe.output), first, rtol=0, atol=0)
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(ConfigError, match="is the current directory"):
        run(recipe, overwrite=True, console=console)


def test_a_failing_first_stage_leaves_no_empty_folders(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    recipe = Recipe.from_dict(make_recipe(
        output=str(tmp_path / "deep" / "run"), stages=[{"name": "only"}],
        training={"learning_rate": 1e30, "max_grad_norm": None, "warmup": 0}))
    with pytest.raises(NonFiniteLossError):
        run(recipe, console=console)
    assert not (tmp_path / "deep").exists()


def test_nothing_is_kept_of_a_teacher_that_is_worse_than_none(
    make_recipe: MakeRecipe, console: Console, tmp_path: Path
) -> None:
    """Scores of the test data are the other way round, so that the correlation of what was learned is negative."""
    for split, sign in (("train", 1), ("validation", -1)):
        rows = [{"text": row["text"], "score": sign * (ord(row["text"][0]) - 101) / 3} for row in make_rows(split)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = make_recipe(distillation={"temperature": None, "matches": None}, training={"epochs": 1})
    values["data"] = {"train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "train.jsonl"),
                      "test": str(tmp_path / "validation.jsonl"), "label": "score", "labels": "regression",
                      "max_length": 16}
    metrics = run(Recipe.from_dict(values), console=console).metrics
    assert metrics["teacher"]["spearman"] < 0 and metrics["retention"] is None


def test_the_plan_tells_of_rows_that_train_and_judge(make_recipe: MakeRecipe, data: dict[str, str]) -> None:
    assert "validation rows are" not in plan(Recipe.from_dict(make_recipe()))
    said = plan(Recipe.from_dict(make_recipe(data={"validation": data["train"]})))
    assert "note: 96 of 96 validation rows are in the training data too" in said
