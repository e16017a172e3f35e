"""Recipes with every kind of match, from the file to the run folder."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification

from stillhouse.plan import Distillation
from stillhouse.recipe import Recipe, plan, run
from stillhouse.recipe.attention_maps import trained_on_attention_maps
from stillhouse.recipe.fitting import Phase, PhaseRecord, train
from stillhouse.recipe.prepare import prepare
from stillhouse.recipe.run import run_one
from tests.recipe.conftest import MakeRecipe

QUICK = {"training": {"steps": 3, "epochs": None, "log_every": 1}}


def quick(make_recipe: MakeRecipe, **changes: Any) -> Recipe:
    """A teacher of two steps and a student of three."""
    values = make_recipe(**QUICK, **changes)
    values["teacher"]["train"] |= {"steps": 2, "epochs": None}
    return Recipe.from_dict(values)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.runs
@pytest.mark.parametrize(("distillation", "terms"), [
    ({"matches": {"losses": ["attention_ce", "attention_mse_sum"]}},
     {"attention_ce 2-1", "attention_ce 4-2", "attention_mse_sum 2-1", "attention_mse_sum 4-2"}),
    ({"matches": {"losses": ["emd_cost_attention"]}}, {"emd_cost_attention all"}),
    ({"matches": {"module_T": "bert.pooler", "module_S": "bert.pooler", "loss": "cos"}},
     {"cos bert.pooler-bert.pooler"}),
    ({"matches": {"losses": ["gram"], "schedule": "linear_decay"}, "temperature_strategy": ["flsw", 1, 2],
      "probability_shift": True, "loss": "ce", "loss_schedule": "linear_growth", "hard_label_weight": 1},
     {"gram 0-0", "gram 2-1", "gram 4-2", "hard", "kd_divergence"}),
])
def test_every_kind_of_match_trains_and_is_logged(make_recipe: MakeRecipe, distillation: dict[str, Any],
                                                  terms: set[str]) -> None:
    found = run(quick(make_recipe, distillation=distillation), console=Console(file=io.StringIO()))
    logged = {name for event in events(found.output) for name in event.get("parts", {})}
    assert terms <= logged
    assert found.metrics["teacher_forwards"]["distillation"] > 0


@pytest.mark.runs
def test_a_second_student_with_attention_asks_the_teacher_nothing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    def forwards(name: str, loss: str) -> int:
        recipe = quick(make_recipe, distillation={"matches": {"losses": [loss]}}, output=str(tmp_path / name))
        found = run(recipe, console=Console(file=io.StringIO()))
        rows: int = found.metrics["teacher_forwards"]["distillation"]
        return rows

    assert forwards("first", "attention_ce") > 0
    assert forwards("second", "attention_mse") == 0


def test_attention_in_a_recipe_needs_nothing_of_the_user(make_recipe: MakeRecipe) -> None:
    recipe = Recipe.from_dict(make_recipe(distillation={"matches": {"losses": ["attention_mse"]}}))
    prepared = prepare(recipe)
    for model in (prepared.teaching.members[0].model, prepared.student):
        assert model.config._attn_implementation == "eager"
    assert prepared.student.config.attention_probs_dropout_prob == 0
    assert "attention dropout off" in plan(recipe)


@pytest.mark.runs
def test_the_contrast_is_the_same_student_and_what_is_saved_has_its_dropout(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained: dict[str, tuple[dict[str, torch.Tensor], set[tuple[str, float]], str]] = {}

    def watched(plan: Distillation, settings: Any, precision: Any, ground: Any, phase: Phase) -> PhaseRecord:
        model = plan.student
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        dropouts = {(name, module.p) for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
        untrained[phase.events_path.name] = weights, dropouts, model.config._attn_implementation  # type: ignore
        return train(plan, settings, precision, ground, phase)

    monkeypatch.setattr(sys.modules[run_one.__module__], "train", watched)
    found = run(quick(make_recipe, distillation={"matches": {"losses": ["attention_mse"]}}, contrast="no_teacher"),
                console=Console(file=io.StringIO()))
    (distilled, *same), (alone, *other) = untrained["events.jsonl"], untrained["events.contrast.jsonl"]
    assert same == other and ("bert.encoder.layer.0.attention.self.dropout", 0.0) in same[0]
    assert ("bert.embeddings.dropout", 0.1) in same[0], "only the dropout of attention is off"
    assert all(torch.equal(value, alone[name]) for name, value in distilled.items())
    saved = AutoModelForSequenceClassification.from_pretrained(found.student_dir)
    assert saved.config.attention_probs_dropout_prob == 0.1
    assert saved.bert.encoder.layer[0].attention.self.dropout.p == 0.1


def test_turning_dropout_off_keeps_the_weights(make_recipe: MakeRecipe) -> None:
    student = prepare(Recipe.from_dict(make_recipe())).student
    before = torch.random.get_rng_state()
    again, dropouts = trained_on_attention_maps(student)
    assert dropouts == {"attention_probs_dropout_prob": 0.1}
    assert again is not student and torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    assert trained_on_attention_maps(again) == (again, {})
