"""Promises of a recipe that updates the touched word embeddings alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe, fitting, run
from stillhouse.recipe.fitting import check_embedding_updates
from stillhouse.recipe.training_schema import StudentTraining, TeacherTraining, TrainingSettings
from stillhouse.training import Precision, Sink, distributed
from stillhouse.training.events import CheckpointSaved, Event

from .conftest import MakeRecipe

TOUCHED = {"embedding_updates": "touched"}
TIED = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)


class StopAtFirst(Sink):
    """Raises at the first checkpoint of a run whose teacher is trained already, which is the student's."""

    def emit(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            raise KeyboardInterrupt


def weights(output: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(output) / "student" / "model.safetensors")


@pytest.mark.runs
def test_the_student_is_the_same_and_so_after_an_interruption(
    make_recipe: MakeRecipe, tmp_path: Path, console: Console
) -> None:
    every = run(Recipe.from_dict(make_recipe(output=str(tmp_path / "all"))), console=console)
    touched = make_recipe(training=TOUCHED, output=str(tmp_path / "touched"))
    whole = run(Recipe.from_dict(touched), console=console)
    expected = weights(every.output)
    for name, value in weights(whole.output).items():
        if not name.endswith("key.bias"):  # its gradient is 0 but for rounding, of which AdamW makes whole steps
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-5, msg=name)
    recipe = Recipe.from_dict({**touched, "output": str(tmp_path / "stopped")})
    with pytest.raises(KeyboardInterrupt):
        run(recipe, console=console, sinks=[StopAtFirst()])
    resumed = run(recipe, resume=True, console=console)
    torch.testing.assert_close(weights(resumed.output), weights(whole.output), rtol=0, atol=0)


def test_what_cannot_be_updated_so_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model, touched = BertForMaskedLM(TIED), StudentTraining.model_validate({"epochs": 1, **TOUCHED})
    with pytest.raises(ConfigError, match=r"embedding_updates: the word embeddings of BertForMaskedLM .*to all"):
        check_embedding_updates(model, touched, Precision())
    with pytest.raises(ConfigError, match=r"overflow in fp16, but in bf16 and fp32 nothing"):
        check_embedding_updates(model, touched, Precision(torch.float16))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="in one process, and there are 2"):
        check_embedding_updates(model, touched, Precision())
    check_embedding_updates(model, StudentTraining(epochs=1), Precision())


def test_a_recipe_is_checked_before_training(make_recipe: MakeRecipe, console: Console) -> None:
    values = make_recipe(task="masked-lm", training=TOUCHED, distillation={"matches": []})
    del values["data"]["label"]
    with pytest.raises(ConfigError, match="embedding_updates: the word embeddings"):
        run(Recipe.from_dict(values), console=console)


def test_auto_is_touched_for_large_tables_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    small = BertForSequenceClassification(BertConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
                                                     num_attention_heads=1, intermediate_size=8))
    large = BertForSequenceClassification(BertConfig(vocab_size=31_250, hidden_size=32, num_hidden_layers=1,
                                                     num_attention_heads=1, intermediate_size=8))
    auto, every = StudentTraining(epochs=1), StudentTraining(epochs=1, embedding_updates="all")

    def chosen(model: nn.Module, settings: TrainingSettings = auto, precision: Precision | None = None) -> bool:
        return fitting._updates_touched_rows(model, settings, precision or Precision())

    assert chosen(large) and not chosen(small) and not chosen(large, every)
    assert not chosen(large, TeacherTraining(epochs=1)) and not chosen(large, precision=Precision(torch.float16))
    assert not chosen(BertForMaskedLM(TIED)) and not chosen(copy.deepcopy(large).to("meta"))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert not chosen(large)
