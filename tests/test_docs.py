"""Tables in the documentation say what the code says. What blocks of code say is tested in tests/docs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from stillhouse.tasks import TASKS

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


def test_every_task_and_its_columns_are_in_the_table_of_tasks() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name, task in TASKS.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", page, flags=re.MULTILINE)
        assert all(f"`{column}`" in line for column in (*task.text_columns, *task.label_columns)
                   if column in task.data.model_fields)
