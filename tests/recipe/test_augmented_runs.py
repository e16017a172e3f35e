"""Promises of augmentation as a step of a recipe: more rows for the teacher to label, none for the hard labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from stillhouse.errors import ConfigError
from stillhouse.recipe import Recipe, plan, run
from stillhouse.recipe.prepare import prepare

from .conftest import ROWS, MakeRecipe, make_rows


@pytest.fixture
def unlabelled(tmp_path: Path) -> str:
    """Texts that no split has, one that the test data has, and one twice."""
    test = make_rows("test")[0]["text"]
    (tmp_path / "more.txt").write_text("\n".join([*(f"{word} {word} {word}" for word in "abcde"), "a a a", test]))
    return str(tmp_path / "more.txt")


def test_further_rows_have_no_labels_and_are_labelled_by_the_teacher(
    make_recipe: MakeRecipe, unlabelled: str, console: Console
) -> None:
    recipe = Recipe.from_dict(make_recipe(
        augmentation={"unlabelled": unlabelled, "functions": ["masking", "short_disorder"]},
        distillation={"hard_label_weight": 1.0}, contrast="no_teacher"))
    assert "5 unlabelled rows" in plan(recipe)
    prepared = prepare(recipe)
    labels = prepared.splits["train"].rows["labels"]
    assert (labels[: ROWS["train"]] >= 0).all() and (labels[ROWS["train"]:] == -100).all()
    assert len(labels) > ROWS["train"] + 5
    metrics = run(recipe, console=console).metrics
    assert metrics["teacher_forwards"]["distillation"] == len(labels)
    assert metrics["contrast"]["steps"] == metrics["student"]["steps"]  # as long, on the rows with labels


def test_the_teacher_and_the_contrast_see_the_rows_with_labels_alone(make_recipe: MakeRecipe, unlabelled: str) -> None:
    prepared = prepare(Recipe.from_dict(make_recipe(augmentation={"unlabelled": unlabelled})))
    plain = prepare(Recipe.from_dict(make_recipe()))
    for ground in (prepared.teacher_ground, prepared.contrast_ground):
        assert torch.equal(ground.train.batch(range(96))["labels"], plain.splits["train"].rows["labels"])
        assert len(ground.train) == ROWS["train"]
    entry, other = (one.teaching.members[0].entry for one in (prepared, plain))
    assert entry is not None and other is not None and entry.folder == other.folder  # one and the same teacher


def test_rows_that_nobody_labels_are_refused(make_recipe: MakeRecipe, unlabelled: str) -> None:
    with pytest.raises(ConfigError, match="nothing is learned from the teacher here"):
        prepare(Recipe.from_dict(make_recipe(
            augmentation={"unlabelled": unlabelled},
            distillation={"loss_weight": 0, "hard_label_weight": 1, "matches": None})))
