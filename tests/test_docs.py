"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from jsonschema import Draft7Validator
from transformers import BertConfig, BertForSequenceClassification

from stillhouse.recipe.json_schema import recipe_schema
from stillhouse.recipe.schema import Recipe
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


PAGES = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("recipes.md", "cache.md"))


@pytest.mark.runs
def test_the_migrated_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "from-textbrewer.md").read_text(encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16,
             "output_hidden_states": True}
    teacher, student = (BertForSequenceClassification(BertConfig(num_hidden_layers=depth, **sizes)) for depth in (6, 3))
    seen: list[int] = []
    names: dict[str, Any] = {
        "teacher": teacher, "student": student, "optimizer": torch.optim.AdamW(student.parameters(), lr=1e-3),
        "dataloader": [{"input_ids": torch.randint(0, 30, (4, 6)), "attention_mask": torch.ones(4, 6)}] * 3,
        "evaluate": lambda model, step: seen.append(step),
    }
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "from-textbrewer.md", "exec"), names)
    assert seen == [3, 6] and names["textbrewer"].utils.display_parameters(student)[1].num_parameters > 0


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGES, flags=re.DOTALL))
def test_the_recipes_of_the_pages_are_valid(text: str) -> None:
    values = yaml.safe_load(text)
    assert Recipe.from_dict(values).output
    assert not [error.message for error in Draft7Validator(recipe_schema()).iter_errors(values)]


def test_every_task_and_its_columns_are_in_the_table_of_tasks() -> None:
    for name, task in TASKS.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", PAGES, flags=re.MULTILINE)
        assert all(f"`{column}`" in line for column in (*task.text_columns, *task.label_columns)
                   if column in task.data.model_fields)
