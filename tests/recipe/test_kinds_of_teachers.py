"""Promises of a recipe's teachers beside one model: several together, numbers in a column, a function."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import BertTokenizer

from stillhouse.errors import ConfigError, DataError, PlanError
from stillhouse.presets import TEACHER_FUNCTIONS, register_new
from stillhouse.recipe import Recipe, plan, run
from stillhouse.recipe.judging import judged_teacher
from stillhouse.recipe.prepare import prepare
from stillhouse.tasks.pretrained import quiet_transformers
from stillhouse.types import LOGITS, Batch, Key

from .conftest import LABELS, WORDS, MakeRecipe, make_rows, save_encoder

SHORT = {"epochs": 2, "precision": "fp32", "learning_rate": 3e-3, "batch_size": 16}


def soft_labels(row: dict[str, str]) -> dict[str, float]:
    """Mostly the label, and something that depends on the text."""
    doubt = 0.05 + 0.02 * (len(row["text"]) % 5)
    return {name: 1 - 2 * doubt if name == row["colour"] else doubt for name in LABELS}


@pytest.fixture
def soft_data(tmp_path: Path) -> dict[str, str]:
    """The data with a column of soft labels in each split."""
    for split in ("train", "validation", "test"):
        rows = [{**row, "soft": soft_labels(row)} for row in make_rows(split)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """A registered teacher function, and the texts that it was asked for."""
    by_text = {row["text"]: soft_labels(row) for split in ("train", "validation", "test") for row in make_rows(split)}
    texts: list[str] = []

    def function(batch: list[str]) -> list[dict[str, float]]:
        texts.extend(batch)
        return [by_text[text] for text in batch]

    register_new("teacher_function", "by_heart", function)
    yield texts
    TEACHER_FUNCTIONS.pop("by_heart")


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return load_file(run_folder / "student" / "model.safetensors")


def numbers_recipe(make_recipe: MakeRecipe, data: dict[str, str], encoder: str, **changes: Any) -> Recipe:
    return Recipe.from_dict(make_recipe(**{
        "teacher": {"column": "soft"}, "student": {"keep": "half", "base": encoder}, "data": data,
        "distillation": {"temperature": 2, "matches": None, "hard_label_weight": 0.5}, **changes}))


def test_soft_labels_in_a_column_teach(
    make_recipe: MakeRecipe, soft_data: dict[str, str], encoder: str, console: Console
) -> None:
    recipe = numbers_recipe(make_recipe, soft_data, encoder, training={"epochs": 8, "learning_rate": 3e-3})
    assert "the probabilities in column soft" in plan(recipe)
    metrics = run(recipe, console=console).metrics
    assert metrics["teacher"]["accuracy"] == 1.0  # the numbers favour the label in every row
    assert metrics["teacher_forwards"]["distillation"] == 0
    assert metrics["student"]["accuracy"] > 0.6 and metrics["retention"] == metrics["student"]["accuracy"]


def test_rows_without_soft_labels_only_learn_their_labels(
    make_recipe: MakeRecipe, soft_data: dict[str, str], encoder: str, tmp_path: Path
) -> None:
    rows = [{**row, "soft": soft_labels(row) if number % 3 else None} for number, row in enumerate(make_rows("train"))]
    Path(soft_data["train"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(numbers_recipe(make_recipe, soft_data, encoder))
    batch = prepared.splits["train"].batch(range(6))
    assert batch["logits_mask"].squeeze(1).tolist() == [0, 1, 1, 0, 1, 1]
    masks = prepared.task.adaptor().masks(batch)
    assert masks["logits"].sum() == 4 and masks["labels"].sum() == 6
    found = prepared.distilling.plan.teacher.signals(Batch(batch, batch), frozenset({LOGITS}))[LOGITS]
    wanted = torch.tensor([[soft_labels(rows[1])[name] for name in prepared.task.label_names]])
    torch.testing.assert_close(found[1:2].softmax(dim=-1), wanted)
    refusing = numbers_recipe(make_recipe, soft_data, encoder, teacher={"column": "soft", "rows_without": "refuse"})
    with pytest.raises(ValueError, match=r"train\.jsonl, row 1"):
        prepare(refusing)


def test_labels_may_be_missing_where_there_are_soft_labels(
    make_recipe: MakeRecipe, soft_data: dict[str, str], encoder: str
) -> None:
    rows = make_rows("train")
    mixed = [{"text": row["text"], "colour": row["colour"] if number % 2 else None, "soft": soft_labels(row)}
             for number, row in enumerate(rows)]
    Path(soft_data["train"]).write_text("".join(json.dumps(row) + "\n" for row in mixed))
    prepared = prepare(numbers_recipe(make_recipe, soft_data, encoder))
    assert prepared.splits["train"].rows["labels"].ge(0).tolist() == [bool(number % 2) for number in range(len(rows))]
    labelled = prepared.contrast_ground.train.batch(range(len(rows) // 2))["labels"]
    assert len(prepared.contrast_ground.train) == len(rows) // 2 and labelled.ge(0).all()
    without = {name: path for name, path in soft_data.items() if name != "validation"}
    values = numbers_recipe(make_recipe, soft_data, encoder).as_dict()
    values["data"] = {key: value for key, value in values["data"].items() if key != "validation"}
    with pytest.raises(DataError, match="give rows with labels"):
        prepare(Recipe.from_dict(values))
    unlabelled = [{**row, "colour": None} for row in mixed]
    Path(without["train"]).write_text("".join(json.dumps(row) + "\n" for row in unlabelled))
    recipe = numbers_recipe(make_recipe, soft_data, encoder, contrast="no_teacher")
    data = recipe.data.model_copy(update={"label_names": LABELS})
    with pytest.raises(ConfigError, match="contrast: no_teacher trains on labels"):
        prepare(recipe.model_copy(update={"data": data}))
    mixed[0]["soft"] = None
    Path(without["train"]).write_text("".join(json.dumps(row) + "\n" for row in mixed))
    with pytest.raises(DataError, match="1 of 96 rows have neither a label nor soft labels"):
        prepare(numbers_recipe(make_recipe, soft_data, encoder))


def test_evaluation_data_may_have_the_column_empty(
    make_recipe: MakeRecipe, soft_data: dict[str, str], encoder: str
) -> None:
    rows = [{**row, "soft": None} for row in make_rows("validation")]
    Path(soft_data["validation"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(numbers_recipe(make_recipe, soft_data, encoder,
                                      teacher={"column": "soft", "rows_without": "refuse"}))
    source = prepared.distilling.plan.teacher
    assert judged_teacher(prepared, source, "validation") is None  # nobody says how good the teacher is there
    judged = judged_teacher(prepared, source, "test")
    assert judged is not None and judged.metrics["accuracy"] == 1.0


def test_a_function_without_a_version_is_kept_in_memory_and_refuses_a_folder(
    make_recipe: MakeRecipe, soft_data: dict[str, str], encoder: str, asked: list[str], tmp_path: Path
) -> None:
    def recipe(cache: str) -> Recipe:
        return numbers_recipe(make_recipe, soft_data, encoder, cache=cache, teacher={"function": "by_heart"})

    assert "in memory" in plan(recipe("auto")) and "has no version" in plan(recipe("auto")) and not asked
    with pytest.raises(ConfigError, match="add version"):
        plan(recipe(f"{tmp_path}/answers"))


def test_a_student_that_reads_otherwise_does_not_change_the_teacher(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    lower = save_encoder(tmp_path / "lower")
    cased = save_encoder(tmp_path / "cased")
    with quiet_transformers():
        BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, do_lower_case=False,
                      ).save_pretrained(cased)
    data = {}
    for split in ("train", "validation", "test"):
        rows = [{**row, "text": row["text"].upper()} for row in make_rows(split)]
        data[split] = str(tmp_path / f"upper-{split}.jsonl")
        Path(data[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = make_recipe(teacher={"model": lower, "train": SHORT}, student={"model": cased}, data=data,
                         distillation={"matches": None})
    prepared = prepare(Recipe.from_dict(recipe))
    batch = prepared.distilling.reading.train.batch([0, 1])
    assert batch["student"]["input_ids"].eq(WORDS.index("[UNK]")).sum() > 0
    assert batch["teacher"]["input_ids"].eq(WORDS.index("[UNK]")).sum() == 0
    assert prepared.teacher_ground.train.batch([0])["input_ids"].eq(WORDS.index("[UNK]")).sum() == 0
    entries = []
    for path in (lower, cased):
        found = prepare(Recipe.from_dict({**recipe, "teacher": {"model": path, "train": SHORT}}))
        entries.append(found.teaching.members[0].entry)
    assert entries[0] is not None and entries[1] is not None and entries[0].folder != entries[1].folder


def test_a_function_teaches_as_the_same_numbers_in_a_column_do_and_is_asked_once(
    make_recipe: MakeRecipe, soft_data: dict[str, str], encoder: str, console: Console, tmp_path: Path, asked: list[str]
) -> None:
    by_column = run(numbers_recipe(make_recipe, soft_data, encoder, output=str(tmp_path / "column")), console=console)
    recipe = numbers_recipe(make_recipe, soft_data, encoder, output=str(tmp_path / "function"), cache="memory",
                            teacher={"function": "by_heart"})
    by_function = run(recipe, console=console)
    assert by_function.metrics["student"]["accuracy"] == by_column.metrics["student"]["accuracy"]
    ours, theirs = weights(tmp_path / "function"), weights(tmp_path / "column")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    judged = {row["text"] for split in ("validation", "test") for row in make_rows(split)}
    trained = {row["text"] for row in make_rows("train")} - judged
    assert all(asked.count(text) == 1 for text in trained)  # in two epochs


def test_a_function_with_a_version_is_not_asked_by_a_later_run(
    make_recipe: MakeRecipe, soft_data: dict[str, str], encoder: str, console: Console, tmp_path: Path, asked: list[str]
) -> None:
    def once(name: str) -> int:
        recipe = numbers_recipe(make_recipe, soft_data, encoder, output=str(tmp_path / name), cache="auto",
                                teacher={"function": "by_heart", "version": "1"}, training={"epochs": 1})
        return int(run(recipe, console=console).metrics["teacher_forwards"]["distillation"])

    assert (once("first"), once("second")) == (len({row["text"] for row in make_rows("train")}), 0)


def test_teachers_of_several_seeds_answer_with_their_mean(
    make_recipe: MakeRecipe, encoder: str, console: Console, tmp_path: Path
) -> None:
    recipe = Recipe.from_dict(make_recipe(teacher={"model": encoder, "train": SHORT, "seeds": [1, 2]},
                                          distillation={"matches": None}))
    text = plan(recipe)
    assert "with seed 1" in text and "with seed 2" in text and "the mean of their logits" in text
    result = run(recipe, console=console)
    prepared = prepare(recipe)
    assert all(member.is_trained for member in prepared.teaching.members)
    batch = prepared.splits["test"].batch(range(5))
    alone = [member.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
             for member in prepared.teaching.members]
    assert not torch.allclose(*alone)
    together = prepared.distilling.plan.teacher.signals(Batch(batch, batch), frozenset({LOGITS}))[LOGITS]
    torch.testing.assert_close(together, torch.stack(alone).mean(dim=0))
    parameters = sum(p.numel() for p in prepared.teaching.members[0].model.parameters())
    assert result.metrics["teacher"]["parameters"] == 2 * parameters
    assert {path.name for path in (tmp_path / "run").glob("events*")} == {
        "events.jsonl", "events.teacher-0.jsonl", "events.teacher-1.jsonl"}


def test_layers_of_several_teachers_are_those_of_the_one_that_is_named(make_recipe: MakeRecipe, encoder: str) -> None:
    teacher = {"model": encoder, "train": SHORT, "seeds": [1, 2]}
    with pytest.raises(PlanError, match="match_teacher"):
        prepare(Recipe.from_dict(make_recipe(teacher=teacher)))
    prepared = prepare(Recipe.from_dict(make_recipe(teacher={**teacher, "match_teacher": 1})))
    assert prepared.teaching.matched is prepared.teaching.members[1].model
    assert Key("hidden", 4) in prepared.distilling.plan.needs()["default"].teacher


def test_teachers_with_other_vocabularies_do_not_teach_together(
    make_recipe: MakeRecipe, encoder: str, tmp_path: Path
) -> None:
    other = save_encoder(tmp_path / "other", [*WORDS[:5], *(2 * letter for letter in WORDS[5:])])
    recipe = Recipe.from_dict(make_recipe(teacher={"models": [encoder, other], "train": SHORT},
                                          distillation={"matches": None}))
    with pytest.raises(PlanError, match="the teachers' vocabularies are not the same"):
        prepare(recipe)


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_probabilities_are_not_averaged_where_labels_do_not_compete(make_recipe: MakeRecipe, encoder: str, kind: str,
                                                                    tmp_path: Path) -> None:
    rows = [{"text": row["text"], "colour": [row["colour"]] if kind == "multi" else 1.0} for row in make_rows("train")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = make_recipe(teacher={"model": encoder, "train": SHORT, "seeds": [0, 1], "average": "probabilities"},
                         distillation={"matches": None})
    values["data"] = {"train": str(tmp_path / "rows.jsonl"), "label": "colour", "labels": kind, "max_length": 16}
    with pytest.raises(ConfigError, match="use average: logits"):
        prepare(Recipe.from_dict(values))


@pytest.mark.parametrize(("changes", "expected"), [
    ({"student": {"keep": "half"}}, "there is no teacher model to make it from"),
    ({"distillation": {"matches": {"losses": ["nst"]}}}, "a teacher that is only numbers has no layers"),
    ({"augmentation": {"functions": ["deleting"]}}, "the teacher's numbers are those of the texts in the data"),
    ({"cache": "memory"}, "cannot be kept, for the teacher's numbers stand in the data"),
])
def test_what_numbers_cannot_do_is_refused(
    make_recipe: MakeRecipe, soft_data: dict[str, str], encoder: str, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises((PlanError, ConfigError), match=expected):
        prepare(numbers_recipe(make_recipe, soft_data, encoder, **changes))


@pytest.mark.parametrize(("teacher", "expected"), [
    ({"model": "m", "column": "c"}, "got model and column"),
    ({"model": "m", "weights": [1, 2]}, "weights has no effect beside model"),
    ({"column": "c", "train": {"epochs": 1}}, "train has no effect beside column"),
    ({"models": ["m", "n"], "weights": [1]}, "1 numbers for 2 teachers"),
    ({"models": ["m", "n"], "match_teacher": 2}, "match_teacher: 2 is none of the 2 teachers"),
    ({"model": "m", "seeds": [0, 1]}, "so they need train"),
    ({"function": "unheard_of"}, "unknown teacher function 'unheard_of'"),
])
def test_settings_of_a_teacher_that_do_not_go_together_are_refused(
    make_recipe: MakeRecipe, teacher: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        Recipe.from_dict(make_recipe(teacher=teacher))
