"""Promises of compiled students: the same losses and gradients, the same names of weights, nothing left behind."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch._dynamo.utils import counters
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe, compiling, run
from stillhouse.recipe.compiling import check_compilation, compiled
from stillhouse.recipe.training_schema import StudentTraining, TeacherTraining

from .conftest import MakeRecipe, save_encoder

CPU = torch.device("cpu")
MISSING = compiling._lacking(CPU)
WANTED = StudentTraining(compile=True)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated", "ignore:The .grad attribute of a Tensor")


def student() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, num_labels=3,
        initializer_range=0.3, **NO_DROPOUT))


def loss_and_gradient(model: BertForSequenceClassification, rows: int, length: int) -> tuple[float, torch.Tensor]:
    """Of a loss over logits and all hidden states, with padding in the first row."""
    draw = torch.Generator().manual_seed(length)
    mask = torch.ones(rows, length)
    mask[0, length // 2:] = 0
    outputs = model(input_ids=torch.randint(0, 30, (rows, length), generator=draw), attention_mask=mask,
                    output_hidden_states=True)
    loss = outputs.logits.square().sum() + sum(hidden.sin().sum() for hidden in outputs.hidden_states)
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING))
def test_compiled_layers_give_the_loss_and_the_gradient_of_the_others() -> None:
    plain, fast = student().train(), student().train()
    names = list(fast.state_dict())
    torch._dynamo.reset()
    counters.clear()
    with compiled(fast, WANTED):
        assert list(fast.state_dict()) == names
        for rows, length in ((4, 6), (3, 9), (4, 14)):
            loss, gradient = loss_and_gradient(plain, rows, length)
            fast_loss, fast_gradient = loss_and_gradient(fast, rows, length)
            assert fast_loss == pytest.approx(loss, rel=1e-4)
            assert torch.linalg.vector_norm(fast_gradient - gradient) < 1e-4 * torch.linalg.vector_norm(gradient)
            if length == 6:
                graphs = counters["stats"]["unique_graphs"]
                assert graphs > 0
        with torch.no_grad():
            ids = torch.tensor([[1, 2, 3]])
            assert torch.equal(fast.eval()(ids).logits, plain.eval()(ids).logits)
        assert counters["stats"]["unique_graphs"] == graphs, "other sizes, layers and evaluation compile nothing more"
    assert all("forward" not in vars(module) for module in fast.modules())


@pytest.mark.runs
def test_a_compiled_run_gives_the_student_of_the_other_and_it_loads(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    counters.clear()
    teacher = {"model": save_encoder(tmp_path / "calm", **NO_DROPOUT), "train": {"epochs": 1, "precision": "fp32"}}
    weights = []
    for compile_it in (False, True):
        assert bool(counters["stats"]) is False
        values = make_recipe(teacher=teacher, training={"epochs": 1, "compile": compile_it},
                             output=str(tmp_path / f"compiled-{compile_it}"))
        result = run(Recipe.from_dict(values), console=console)
        weights.append(AutoModelForSequenceClassification.from_pretrained(result.student_dir).state_dict())
    assert counters["stats"]["unique_graphs"] > 0
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5)


def test_only_students_are_compiled_and_only_if_asked() -> None:
    model = student()
    for settings in (StudentTraining(), TeacherTraining()):
        with compiled(model, settings):
            assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize(("device", "missing"), [
    ("cpu", r"a C\+\+ compiler is missing \(my-compiler\)"),
    ("cuda", r"a C compiler is missing \(gcc or clang\) and Triton is missing"),
])
def test_a_machine_that_cannot_compile_is_told_before_training(
    monkeypatch: pytest.MonkeyPatch, device: str, missing: str
) -> None:
    monkeypatch.setenv("CXX", "my-compiler")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"training.compile: to compile for {device}, {missing}.*; set .* to false"):
        check_compilation(student(), WANTED, torch.device(device))
    check_compilation(student(), StudentTraining(), torch.device(device))


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    model: Any = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(num_hidden_layers=2)
    with pytest.raises(ConfigError, match=r"a Linear has no list of layers .*; set training\.compile to false"):
        check_compilation(model, WANTED, CPU)


def test_layers_that_are_computed_again_are_not_compiled() -> None:
    with pytest.raises(ConfigError, match=r"gradient_checkpointing .* set one of the two to false"):
        check_compilation(student(), StudentTraining(compile=True, gradient_checkpointing=True), CPU)


def test_a_compilation_that_fails_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Callable[..., Any]:
        raise RuntimeError("no such\nregister")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    torch._dynamo.reset()
    model = copy.deepcopy(student()).train()
    with pytest.raises(ConfigError, match=r"failed on BertForSequenceClassification \(.*no such register"), \
            compiled(model, WANTED):
        loss_and_gradient(model, 4, 6)
    assert all("forward" not in vars(module) for module in model.modules())
