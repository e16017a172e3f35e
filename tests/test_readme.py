"""The README's Python runs as written, and its recipe is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertForSequenceClassification

from stillhouse.recipe.schema import Recipe
from stillhouse.training import checkpoint

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def loader() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{
        "input_ids": torch.randint(0, 50, (4, 6), generator=generator),
        "attention_mask": torch.ones(4, 6, dtype=torch.long),
        "labels": torch.randint(0, 3, (4,), generator=generator),
    } for _ in range(3)]


@pytest.mark.runs
def test_the_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=64,
                        num_labels=3)
    BertForSequenceClassification(config).save_pretrained("my-teacher")
    seen: list[int] = []
    names: dict[str, Any] = {"loader": loader(), "evaluate": lambda model, step: seen.append(step)}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert seen == [3, 6]
    assert checkpoint.steps(tmp_path / "saved_models") == [3, 6]
    assert names["student"].config.num_hidden_layers == 3


def test_the_recipe_is_valid() -> None:
    (recipe,) = blocks("yaml")
    assert Recipe.from_dict(yaml.safe_load(recipe)).student.shape == "T3"
