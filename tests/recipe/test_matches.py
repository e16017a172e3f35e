"""Recipes with every kind of match, from the file to the run folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from stillhouse.recipe import Recipe, plan, run
from stillhouse.recipe.attention_maps import trained_on_attention_maps
from stillhouse.recipe.prepare import prepare
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
    for model in (prepared.teacher, prepared.student):
        assert model.config._attn_implementation == "eager"
    assert prepared.student.config.attention_probs_dropout_prob == 0
    assert "attention dropout off" in plan(recipe)


def test_turning_dropout_off_keeps_the_weights(make_recipe: MakeRecipe) -> None:
    student = prepare(Recipe.from_dict(make_recipe())).student
    before = torch.random.get_rng_state()
    again, changed = trained_on_attention_maps(student)
    assert changed and again is not student and torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    assert trained_on_attention_maps(again) == (again, False)
