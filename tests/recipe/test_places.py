"""Promises of the places of keys: where a key stands that somebody wrote elsewhere."""

from __future__ import annotations

import pytest

from stillhouse.recipe.places import place_of


@pytest.mark.parametrize(("name", "place"), [
    ("epochs", "training.epochs"), ("epoch", "training.epochs"), ("tempreature", "distillation.temperature"),
    ("label", "data.label"), ("tags", "data.tags"), ("output", "output"), ("teacher", "teacher.KEY"),
    ("data", "data.KEY"), ("training", "training.KEY"), ("zzz", None),
])
def test_a_key_is_found_in_its_section(name: str, place: str | None) -> None:
    assert place_of(name) == place
