"""Promises of runs towards their cache: they say what lies there, nobody deletes it meanwhile, the budget holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse.cache_care.items import Item, items_in
from stillhouse.cache_care.pruning import remove
from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe, asking_again, plan, prepare, run
from stillhouse.training import Sink
from stillhouse.training.events import CheckpointSaved, Event

from .conftest import MakeRecipe

pytestmark = pytest.mark.runs
TRAIN = {"epochs": 1, "precision": "fp32"}


class PruneMeanwhile(Sink):
    """Tries to delete everything at the first checkpoint of the student."""

    def __init__(self) -> None:
        self.tried: list[tuple[Item, bool]] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved) and not self.tried:
            _, items = items_in()
            if any(item.kind == "answers" for item in items):
                self.tried = [(item, remove(item)) for item in items]


def test_a_run_notes_what_it_keeps_and_nobody_deletes_it_meanwhile(make_recipe: MakeRecipe, encoder: str) -> None:
    torch.set_num_threads(1)
    recipe = Recipe.from_dict(make_recipe(teacher={"model": encoder, "train": TRAIN}, training={"epochs": 2}))
    watch = PruneMeanwhile()
    result = run(recipe, sinks=[watch])
    assert {(item.kind, is_gone) for item, is_gone in watch.tried} == {("answers", False), ("teacher", False)}
    assert result.metrics["teacher_forwards"]["distillation"] == 96
    about = {item.kind: item.about for item in items_in()[1]}
    accuracy = result.metrics["teacher"]["validation"]["accuracy"]
    assert about["answers"] == (f"{Path(encoder).absolute()}, fine-tuned, text-classification, float32",)
    assert about["teacher"][0].startswith(f"{Path(encoder).absolute()}, text-classification, ")
    assert f"accuracy {accuracy:.4f}" in about["teacher"][0]


def test_the_plan_keeps_to_the_budget_and_a_chosen_folder_refuses(
    make_recipe: MakeRecipe, encoder: str, tmp_path: Path
) -> None:
    def recipe(**changes: object) -> Recipe:
        return Recipe.from_dict(make_recipe(teacher={"model": encoder, "train": TRAIN}, **changes))

    line = next(line for line in plan(recipe(cache_budget="1 MB")).splitlines() if line.startswith("cache "))
    assert "of a budget of 1.0 MB, as float32" in line
    full_kb = float(line.partition(" kB in all")[0].split()[-1])
    budget = f"{full_kb * 0.7:.0f} kB"
    assert "as bfloat16, for as float32 they would take" in plan(recipe(cache_budget=budget))
    assert "cache     off, for the answers would take" in plan(recipe(cache_budget="2 kB"))
    with pytest.raises(ConfigError, match="cache_budget: the answers would take"):
        run(recipe(cache_budget=budget, cache=str(tmp_path / "answers")))
    assert not (tmp_path / "answers").exists() and not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"cache_budget: '20'.*as in 20 GB"):
        recipe(cache_budget=20)


def test_a_gpu_that_answers_at_once_is_asked_again_for_layers_but_not_for_logits(
    make_recipe: MakeRecipe, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_again.Gpu, "of", lambda device: asking_again.Gpu(132, (9, 0)))
    monkeypatch.setattr(asking_again, "_SINGLE_FLOPS", {(9, 0): 1e9})
    monkeypatch.setattr(asking_again, "_LAYER_S", 0.0)
    teacher = {"model": encoder, "train": TRAIN}
    layers = {"matches": {"layers": "uniform", "losses": ["hidden_mse"]}}
    said = {name: plan(Recipe.from_dict(make_recipe(teacher=teacher, distillation=section)))
            for name, section in (("layers", layers), ("logits", {"matches": []}))}
    assert "cache     off, for this GPU answers again sooner" in said["layers"]
    assert "a row" in said["logits"] and "sooner" not in said["logits"]


@pytest.mark.parametrize("training", [{"epochs": 5}, {"epochs": None, "steps": 30, "batch_size": 8, "accumulation": 2}])
def test_what_it_takes_to_ask_again_is_that_of_the_recipe(
    make_recipe: MakeRecipe, encoder: str, monkeypatch: pytest.MonkeyPatch, training: dict[str, object]
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(prepare, "asking", lambda models, gpu, dtype, **more: seen.append(more))
    layers = {"matches": {"layers": "uniform", "losses": ["hidden_mse"]}}
    teacher = {"model": encoder, "train": TRAIN}
    plan(Recipe.from_dict(make_recipe(teacher=teacher, distillation=layers, training=training)))
    assert [(each["passes"], each["choices"]) for each in seen] == [(5, 0)]  # 30 steps of 16 rows, of 96
    plan(Recipe.from_dict(make_recipe(teacher={**teacher, "quantization": "int8-dynamic"}, distillation=layers)))
    assert len(seen) == 1, "a quantized teacher may answer on the CPU"


def test_the_budget_is_in_the_recipe_of_the_run_and_decides_the_type(make_recipe: MakeRecipe, encoder: str) -> None:
    torch.set_num_threads(1)
    values = make_recipe(teacher={"model": encoder, "train": TRAIN}, training={"epochs": 1}, cache_budget="400 kB")
    result = run(Recipe.from_dict(values))
    assert "cache_budget: 400 kB" in (result.output / "recipe.yaml").read_text()
    (answers,) = [item for item in items_in()[1] if item.kind == "answers"]
    note = json.loads(next(answers.folder.glob("about-*.json")).read_text())
    assert note["dtype"] == "bfloat16"
