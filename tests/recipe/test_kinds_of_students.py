"""Promises of a recipe's students beside a cut-down teacher: other networks, other families, smaller vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig, DistilBertModel

from stillhouse.errors import PlanError
from stillhouse.recipe import Recipe, plan, run
from stillhouse.recipe.prepare import prepare
from stillhouse.tasks.pretrained import quiet_transformers

from .conftest import WORDS, MakeRecipe, make_rows, save_encoder

LOGITS_ONLY = {"temperature": 4, "matches": None}


def accuracy_of_folder(folder: Path) -> float:
    """What the saved student makes of the test rows, read as a user would."""
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    right = 0
    for row in make_rows("test"):
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=16)).logits
        right += model.config.id2label[int(logits.argmax())] == row["colour"]
    return right / len(make_rows("test"))


@pytest.mark.parametrize("network", ["BiGRU", "BiLSTM", "CNN"])
def test_another_network_learns_from_the_teacher_and_loads_from_its_folder(
    make_recipe: MakeRecipe, console: Console, network: str
) -> None:
    recipe = Recipe.from_dict(make_recipe(student={"network": network, "hidden_size": 32}, distillation=LOGITS_ONLY,
                                          training={"epochs": 15, "learning_rate": 1e-2}, contrast="no_teacher"))
    assert "word embeddings" in plan(recipe)
    result = run(recipe, console=console)
    assert result.metrics["contrast"]["starts_from"] == "the teacher's word embeddings"
    assert accuracy_of_folder(result.student_dir) == pytest.approx(result.metrics["student"]["accuracy"])
    assert result.metrics["student"]["accuracy"] > 0.5


def save_another_family(folder: Path) -> str:
    """A DistilBERT that does not know all of the teacher's words, and numbers those that it knows otherwise."""
    words = [*WORDS[:5], *reversed("abcdefghi")]
    save_encoder(folder, words)
    torch.manual_seed(0)
    with quiet_transformers():
        DistilBertModel(DistilBertConfig(vocab_size=len(words), dim=16, n_layers=2, n_heads=2, hidden_dim=32,
                                         max_position_embeddings=32)).save_pretrained(folder)
    return str(folder)


def test_a_student_of_another_family_reads_with_its_own_tokenizer(
    make_recipe: MakeRecipe, console: Console, tmp_path: Path
) -> None:
    other = save_another_family(tmp_path / "other")
    recipe = Recipe.from_dict(make_recipe(student={"model": other}, distillation=LOGITS_ONLY,
                                          training={"epochs": 6, "learning_rate": 5e-3}))
    prepared = prepare(recipe)
    batch = prepared.distilling.reading.train.batch(range(8))
    assert set(batch) == {"student", "teacher"}
    assert not torch.equal(batch["student"]["input_ids"], batch["teacher"]["input_ids"])
    result = run(recipe, console=console)
    assert accuracy_of_folder(result.student_dir) == pytest.approx(result.metrics["student"]["accuracy"])
    assert result.metrics["teacher_forwards"]["distillation"] == result.metrics["rows"]["train"]  # in six epochs


def test_layers_and_tags_need_the_same_tokens(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    other = save_another_family(tmp_path / "other")
    with pytest.raises(PlanError, match="take the matches out"):
        prepare(Recipe.from_dict(make_recipe(student={"model": other})))
    rows = [{"tokens": row["text"].split(), "tags": [word in "abc" for word in row["text"].split()]}
            for row in make_rows("train")]
    rows = [{"tokens": row["tokens"], "tags": [["other", "early"][tag] for tag in row["tags"]]} for row in rows]
    (tmp_path / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = make_recipe(student={"model": other}, task="token-classification",
                                         distillation=LOGITS_ONLY)
    values["data"] = {"train": str(tmp_path / "tags.jsonl"), "tags": "tags", "max_length": 16}
    with pytest.raises(PlanError, match="learns from the teacher's answer at every token"):
        prepare(Recipe.from_dict(values))
    values["student"] = {"keep": "half"}
    prepare(Recipe.from_dict(values))


def test_a_trimmed_vocabulary_keeps_layers_comparable_and_the_student_small(
    make_recipe: MakeRecipe, console: Console, tmp_path: Path
) -> None:
    large = save_encoder(tmp_path / "large", [*WORDS[:5], *(f"unused{i}" for i in range(50)), *WORDS[5:]])
    teacher = {"model": large, "train": {"epochs": 6, "learning_rate": 3e-3, "batch_size": 16, "precision": "fp32"}}
    whole, trimmed = (Recipe.from_dict(make_recipe(
        teacher=teacher, student={"keep": "half", "vocabulary": vocabulary}, output=str(tmp_path / vocabulary)))
        for vocabulary in ("whole", "trimmed"))
    found = {recipe.student.vocabulary: run(recipe, console=console) for recipe in (whole, trimmed)}
    sizes = {name: result.metrics["student"]["parameters"] for name, result in found.items()}
    assert sizes["whole"] - sizes["trimmed"] == 32 * 50
    # The same tokens at the same places, so the same training: only rows that nobody reads are missing.
    assert found["trimmed"].metrics["student"]["accuracy"] == found["whole"].metrics["student"]["accuracy"]
    assert accuracy_of_folder(found["trimmed"].student_dir) == pytest.approx(
        found["trimmed"].metrics["student"]["accuracy"])


def test_a_base_other_than_the_teacher_gives_shape_and_tokens(
    make_recipe: MakeRecipe, console: Console, tmp_path: Path
) -> None:
    other = save_another_family(tmp_path / "other")
    recipe = Recipe.from_dict(make_recipe(student={"base": other, "keep": 1}, distillation=LOGITS_ONLY))
    assert f"from {other}'s layer 0" in plan(recipe)
    student = prepare(recipe).student
    assert type(student).__name__ == "DistilBertForSequenceClassification" and student.config.num_hidden_layers == 1


def test_a_first_stage_on_plain_text_starts_a_task_run(
    make_recipe: MakeRecipe, encoder: str, console: Console, tmp_path: Path
) -> None:
    (tmp_path / "plain.txt").write_text("\n".join(row["text"] for row in make_rows("train")))
    plain = {"train": str(tmp_path / "plain.txt"), "max_length": 16}
    values = make_recipe(distillation=LOGITS_ONLY)
    data, train = values.pop("data"), values["teacher"]["train"]
    values.pop("task")
    values["stages"] = [
        {"name": "plain", "task": "masked-lm", "data": plain,
         "teacher": {"model": encoder, "train": {**train, "epochs": 2}}},
        {"name": "colours", "task": "text-classification", "data": data, "student": {"run": "plain"},
         "teacher": {"model": encoder, "train": train}, "training": {"epochs": 10, "learning_rate": 5e-3}},
    ]
    recipe = Recipe.from_dict(values)
    assert "BertForMaskedLM" in plan(recipe) and "BertForSequenceClassification" in plan(recipe)
    result = run(recipe, console=console)
    first, second = result.stages
    assert first.metrics["metric"] == "accuracy" and second.metrics["student"]["accuracy"] > 0.5
    assert "every epoch shows the rows with other words hidden" in console.file.getvalue()  # type: ignore[attr-defined]
    assert accuracy_of_folder(second.student_dir) == pytest.approx(second.metrics["student"]["accuracy"])
