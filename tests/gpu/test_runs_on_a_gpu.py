"""Training waits for a CUDA device only to log, and every task and kind of student runs on one."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from stillhouse.losses import ForwardKL, HardLabels, HiddenMSE, SoftCrossEntropy
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.projections import linear
from stillhouse.recipe import Recipe, run
from stillhouse.recipe.optimization import adamw
from stillhouse.students.recurrent import BidirectionalLayer
from stillhouse.teachers import LiveTeacher
from stillhouse.training import FitOptions, LoaderSource, Precision, fit
from stillhouse.types import Key
from tests.gpu.device import BF16, DEVICE, FP16, FP32, assert_close, needs_device
from tests.recipe.conftest import make_rows, save_encoder
from tests.tasks.test_conformance import MAX_LENGTH, SUITES
from tests.training.toy import H1, WIDTH_S, WIDTH_T, make_plan, rows, split

pytestmark = needs_device


# Waiting for the device.


def waits(train: Callable[[int], None], steps: int) -> Counter[str]:
    """Where a training of so many steps waits for the device: the innermost places outside torch."""
    found: Counter[str] = Counter()

    def note(message: Any, *_: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            frames = [frame for frame in traceback.extract_stack()[:-1]
                      if "/site-packages/torch/" not in frame.filename and not frame.filename.endswith("warnings.py")]
            found[f"{frames[-1].filename}:{frames[-1].lineno}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if DEVICE.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            train(steps)
        finally:
            if DEVICE.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return found


@pytest.mark.parametrize("precision", [FP32, BF16, FP16], ids=str)
@pytest.mark.parametrize("opaque", [False, True])
def test_steps_that_are_not_logged_do_not_wait_for_the_device(precision: Precision, opaque: bool) -> None:
    def train(steps: int) -> None:
        plan = make_plan(opaque)
        plan.teacher.model.to(DEVICE)  # type: ignore[attr-defined]
        projection = linear(WIDTH_S, WIDTH_T).double()
        terms = [Term("kd", SoftCrossEntropy(2.0)), Term("hidden", HiddenMSE([H1], [H1], projection))]
        plan = dataclasses.replace(plan, objective=Objective(terms))
        plan.student.to(DEVICE)
        plan.objective.to(DEVICE)
        optimizer = adamw([plan.student, plan.objective], 1e-3, 0.01)
        options = FitOptions(num_steps=steps, log_every=1000, max_grad_norm=1.0, device=DEVICE, precision=precision)
        fit(plan, LoaderSource(split([1] * 8, rows()) * 3), optimizer, options,
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0))

    train(2)  # what is only done once is done
    few, many = waits(train, 4), waits(train, 16)
    assert DEVICE.type == "cpu" or few, "reading the last loss waits, so this test sees nothing"
    assert many - few == Counter()


def test_a_text_classifier_waits_for_nothing_of_ours(tmp_path: Path) -> None:
    suite = SUITES["text-classification"][0]()
    suite.make_checkpoint(tmp_path)
    task = suite.make_task(tmp_path)
    encoded = task.encode("train", task.load_tokenizer(str(tmp_path)))

    def train(steps: int) -> None:
        student = task.load_model(str(tmp_path))
        teacher = LiveTeacher(copy.deepcopy(student).to(DEVICE), task.adaptor(), torch.bfloat16)
        layer = Key("hidden", 1)
        plan = Distillation(student, task.adaptor(), teacher, Objective([
            Term("kd", ForwardKL(4.0)), Term("hard", HardLabels()), Term("hidden", HiddenMSE([layer], [layer]))]))
        plan.student.to(DEVICE)
        options = FitOptions(num_steps=steps, log_every=1000, max_grad_norm=1.0, device=DEVICE, precision=BF16)
        loader = task.loader(encoded, batch_size=1, seed=0, shuffle=True)
        fit(plan, LoaderSource(loader), adamw([plan.student], 1e-3, 0.01), options)

    train(2)
    extra = waits(train, 12) - waits(train, 4)
    print("waits in eight steps:", dict(extra))
    assert not [place for place in extra if "/stillhouse/" in place]


# Models, tasks and recipes.


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_recurrent_layer_is_as_exact_under_autocast_as_without(cell: str) -> None:
    torch.manual_seed(0)
    layer = BidirectionalLayer(cell, 8)
    states, mask = torch.randn(4, 6, 8), torch.rand(4, 6) < 0.7
    expected = layer(states, mask)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    moved = copy.deepcopy(layer).to(DEVICE)
    moved.zero_grad()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        found = moved(states.to(DEVICE), mask.to(DEVICE))
    found.square().sum().backward()
    assert_close(found.detach(), expected.detach(), tolerance=1e-3)  # on an H100 one of 192 numbers was 2e-4 off
    assert_close([p.grad for p in moved.parameters()], gradients, tolerance=1e-3)


EVERY_SUITE = [suite for suites in SUITES.values() for suite in suites]


@pytest.mark.parametrize("suite", EVERY_SUITE, ids=lambda suite: suite.__name__)
def test_every_task_judges_a_model_on_the_device_as_on_the_cpu(suite: Any, tmp_path: Path) -> None:
    suite().make_checkpoint(tmp_path)
    task = suite().make_task(tmp_path)
    torch.manual_seed(0)
    model: Any = task.load_model(str(tmp_path))
    encoded = task.encode("test", task.load_tokenizer(str(tmp_path)))
    on_cpu = task.evaluate(model, encoded)
    on_device = task.evaluate(model.to(DEVICE), encoded)
    assert on_device.agreement(on_cpu) > 0.99
    assert on_device.metrics == pytest.approx(on_cpu.metrics, abs=1e-3, rel=1e-3)
    halves = task.evaluate(model, encoded, autocast_dtype=torch.bfloat16)
    assert all(isinstance(value, float) for value in halves.metrics.values())


@pytest.fixture
def carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Carries out a recipe on ``device: auto`` and gives what ``metrics.json`` says."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))

    def carry_out(**values: Any) -> dict[str, Any]:
        training = {"batch_size": 8, "learning_rate": 2e-3, "log_every": 2, **values.pop("training", {})}
        recipe = Recipe.from_dict({**values, "training": training, "output": str(tmp_path / "run")})
        found = run(recipe, console=Console(file=io.StringIO())).metrics
        assert found == json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert found["device"].startswith(DEVICE.type) and (DEVICE.type == "cpu" or found["precision"] == "bf16")
        return found

    return carry_out


@pytest.mark.filterwarnings("ignore:relation. rows of a micro-batch")
@pytest.mark.parametrize("suite", EVERY_SUITE, ids=lambda suite: suite.__name__)
def test_every_task_runs_as_a_recipe(suite: Any, tmp_path: Path, carried_out: Callable[..., Any]) -> None:
    suite().make_checkpoint(tmp_path / "encoder")
    suite().make_task(tmp_path)
    files = {split_: str(tmp_path / f"{split_}.jsonl") for split_ in ("train", "validation", "test")}
    data = {name: list(value) if isinstance(value, tuple) else value for name, value in suite.settings.items()}
    teacher = {"model": str(tmp_path / "encoder")}
    if suite.kind.has_labels:
        teacher["train"] = {"steps": 3, "batch_size": 8}  # type: ignore[assignment]
    found = carried_out(task=suite.kind.name, data={**files, **data, "max_length": MAX_LENGTH}, teacher=teacher,
                        student={"keep": "half"}, training={"epochs": 2, "accumulation": 2},
                        distillation={"matches": {"layers": "uniform", "losses": ["hidden_mse", "nst"]}})
    assert math.isfinite(found["student"][found["metric"]]) and found["student"]["throughput_rows_per_s"] > 0


@pytest.mark.parametrize("student", [{"keep": "half"}, {"network": "BiGRU", "hidden_size": 32},
                                     {"network": "CNN", "hidden_size": 32}], ids=["layers", "BiGRU", "CNN"])
def test_a_student_learns_from_its_cached_teacher(
    student: Any, tmp_path: Path, carried_out: Callable[..., Any]
) -> None:
    files = {}
    for name in ("train", "validation", "test"):
        files[name] = str(tmp_path / f"{name}.jsonl")
        Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in make_rows(name)))
    has_layers = "keep" in student
    losses = ["hidden_mse", "nst", "attention_mse", "attention_ce", "cos", "pkd", "fsp"]
    matches = [{"layers": "uniform", "losses": losses}, {"losses": ["emd"]}] if has_layers else None
    found = carried_out(
        task="text-classification", data={**files, "label": "colour", "max_length": 16}, student=student,
        teacher={"model": save_encoder(tmp_path / "encoder"), "train": {"epochs": 6, "learning_rate": 3e-3,
                                                                        "batch_size": 16}},
        distillation={"temperature": 4, "matches": matches}, contrast="no_teacher" if has_layers else "none",
        training={"epochs": 6 if has_layers else 15, "learning_rate": 2e-3 if has_layers else 1e-2, "batch_size": 16,
                  "embedding_updates": "touched" if student.get("network") == "CNN" else "all"})
    assert found["teacher_forwards"]["distillation"] == found["rows"]["train"]  # once, in all epochs
    assert found["student"]["accuracy"] > 0.5
