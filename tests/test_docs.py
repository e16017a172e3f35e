"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from stillhouse.recipe.schema import Recipe

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_recipes_is_up_to_date() -> None:
    reference = script("recipe_reference")
    page = reference.PAGE.read_text(encoding="utf-8")
    assert page.split(reference.MARKER)[1].strip() == reference.tables().strip(), "run scripts/recipe_reference.py"


PAGES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGES, flags=re.DOTALL))
def test_the_recipes_of_the_page_are_valid(text: str) -> None:
    assert Recipe.from_dict(yaml.safe_load(text)).output
