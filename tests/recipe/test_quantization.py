"""Promises of a recipe whose teacher is quantized."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from rich.console import Console

from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe, plan, run
from stillhouse.recipe.prepare import Prepared, prepare
from stillhouse.recipe.quantization import Quantization
from stillhouse.teachers import LiveTeacher
from stillhouse.types import LOGITS, Batch, Key

from .conftest import MakeRecipe

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
FINE_TUNED = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 16, "precision": "fp32"}


def batch_of(prepared: Prepared) -> Batch:
    inputs = prepared.splits["validation"].batch(range(6))
    return Batch(inputs, inputs)


def test_a_fine_tuned_teacher_answers_in_whole_numbers_and_the_student_is_made_of_its_full_weights(
    make_recipe: MakeRecipe, encoder: str, console: Console
) -> None:
    def recipe(**quantization: Any) -> Recipe:
        teacher = {"model": encoder, "train": FINE_TUNED, **quantization}
        return Recipe.from_dict(make_recipe(teacher=teacher, student={"keep": "half"}, training={"epochs": 1}))

    quantized = recipe(quantization="int8-dynamic")
    assert "then answers in int8-dynamic" in plan(quantized)
    metrics = run(quantized, console=console).metrics
    text = plan(quantized)
    assert "fine-tuned before" in text and "answers in int8-dynamic, " in text
    full, smaller = prepare(recipe()), prepare(quantized)
    assert full.teaching.is_trained  # what is kept is the model before it is quantized
    model, answering = (member.members[0].answering for member in (full.teaching, smaller.teaching))
    size = {name: metrics["teacher"][name] for name in ("quantization", "parameters", "size_bytes")}
    assert size["quantization"] == "int8-dynamic" and "quantization" not in metrics["student"]
    assert size["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    tensors = [*answering.parameters(), *answering.buffers()]
    assert size["size_bytes"] == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert any(tensor.dtype is torch.int8 for tensor in tensors)
    for ours, theirs in zip(smaller.student.parameters(), full.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    sources = [each.distilling.plan.teacher for each in (full, smaller)]
    assert len({source.fingerprint for source in sources} - {None}) == 2
    exact, found = (source.signals(batch_of(full), frozenset({LOGITS}))[LOGITS] for source in sources)
    assert 0 < (found - exact).norm() / exact.norm() < 0.1
    assert "quantization" not in run(recipe(), console=console, overwrite=True).metrics["teacher"]


def test_several_teachers_are_quantized_each_and_give_attention_maps(
    make_recipe: MakeRecipe, encoder: str, console: Console
) -> None:
    teacher = {"model": encoder, "seeds": [0, 1], "train": {**FINE_TUNED, "epochs": 1}, "match_teacher": 1,
               "quantization": "int8-dynamic"}
    recipe = Recipe.from_dict(make_recipe(teacher=teacher, training={"epochs": 1}, distillation={
        "matches": {"layers": "uniform", "losses": ["attention_mse"]}}))
    run(recipe, console=console)
    prepared = prepare(recipe)
    for member in prepared.teaching.members:
        assert member.answering is not member.model
    maps = prepared.distilling.plan.teacher.signals(batch_of(prepared), frozenset({Key("attention", 0)}))
    assert maps[Key("attention", 0)].isfinite().all()


@pytest.mark.parametrize(("quantization", "message"), [
    ("8bit", "8bit needs a CUDA device, and this run is on cpu; use int8-dynamic"),
    ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type: fp4} needs a CUDA device"),
    ({"load_in_4bit": True, "bnb_4bit_quant": "fp4"}, "'bnb_4bit_quant': did you mean 'bnb_4bit_quant_type'"),
])
def test_what_this_machine_cannot_do_is_refused_before_a_model_is_loaded(
    make_recipe: MakeRecipe, quantization: Any, message: str
) -> None:
    recipe = Recipe.from_dict(make_recipe(teacher={"model": "no/such/folder", "quantization": quantization}))
    with pytest.raises(ConfigError) as error:
        plan(recipe)
    assert str(error.value).startswith("teacher.quantization: ") and message in str(error.value)


def test_what_other_machines_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="int8-dynamic is for CPUs, and this run is on cuda; use 8bit or 4bit"):
        Quantization("int8-dynamic", CUDA).require()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="4bit needs the package bitsandbytes, which is not installed"):
        Quantization("4bit", CUDA).require()


@pytest.mark.parametrize(("teacher", "message"), [
    ({"model": "x", "quantization": "int8"}, "'int8' is not one of"),
    ({"model": "x", "quantization": "bnb-4bit"},
     "the recipe: teacher.quantization: 'bnb-4bit' is not one of int8-dynamic, 8bit, 4bit; did you mean 4bit? Options "
     "of bitsandbytes may stand here instead, as a mapping such as {load_in_4bit: true}"),
    ({"model": "x", "quantization": 8}, "teacher.quantization: 8 is not one of int8-dynamic, 8bit, 4bit; Options"),
    ({"model": "x", "quantization": {"bnb_4bit_quant_type": "nf4"}}, "does not say in how many bits"),
    ({"model": "x", "quantization": {"load_in_8bit": True, "load_in_4bit": True}}, "does not say in how many bits"),
    ({"column": "soft", "quantization": "8bit"}, "quantization has no effect beside column"),
])
def test_what_means_nothing_is_refused_when_the_recipe_is_read(
    make_recipe: MakeRecipe, teacher: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match="teacher") as error:
        Recipe.from_dict(make_recipe(teacher=teacher))
    assert message in str(error.value)


@pytest.mark.parametrize("choice", ["8bit", "4bit", {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}])
@pytest.mark.filterwarnings("ignore")  # what the package warns of is not ours
def test_options_of_bitsandbytes_reach_it(
    make_recipe: MakeRecipe, encoder: str, console: Console, choice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(Quantization, "require", lambda self: None)  # its own code for CPUs does for this
    teacher = {"model": encoder, "train": FINE_TUNED, "quantization": choice}
    recipe = Recipe.from_dict(make_recipe(teacher=teacher, training={"epochs": 1, "precision": "bf16"}))
    metrics = run(recipe, console=console).metrics
    member = prepare(recipe).teaching.members[0]
    settings = member.answering.config.quantization_config
    four = choice != "8bit"
    assert (settings.load_in_4bit, settings.load_in_8bit) == (four, not four)
    assert settings.bnb_4bit_quant_type == ("nf4" if choice == "4bit" else "fp4")
    assert not hasattr(member.model.config, "quantization_config")
    assert metrics["teacher"]["parameters"] == sum(each.numel() for each in member.model.parameters())
    source = member.source(prepare(recipe).task, torch.bfloat16)
    assert isinstance(source, LiveTeacher) and source.autocast_dtype is None  # it has types of its own
    assert metrics["student"]["accuracy"] > 0
