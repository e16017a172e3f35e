"""A tiny pre-trained encoder, a tiny task that it can learn, and a recipe for the two."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from transformers import BertConfig, BertModel, BertTokenizer

from stillhouse.tasks.pretrained import quiet_transformers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnop"]
LABELS = ("red", "green", "blue")
ROWS = {"train": 96, "validation": 24, "test": 30}


def save_encoder(folder: Path, words: list[str] = WORDS, **sizes: Any) -> str:
    """An encoder without a head, and its tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(**{"vocab_size": len(words), "hidden_size": 32, "num_hidden_layers": 4,
                           "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32,
                           "initializer_range": 0.1, **sizes})
    with quiet_transformers():
        BertModel(config).save_pretrained(folder)
        BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return str(folder)


def make_rows(split: str) -> list[dict[str, str]]:
    """Texts of 2 to 9 words; the first word alone decides the label."""
    draw = random.Random(split)
    words = WORDS[5:]
    rows: dict[str, dict[str, str]] = {}  # by text, for no two rows are to be the same
    while len(rows) < ROWS[split]:
        label = draw.randrange(len(LABELS))
        first = words[label + len(LABELS) * draw.randrange(3)]
        text = " ".join([first, *draw.choices(words, k=draw.randint(1, 8))])
        rows[text] = {"text": text, "colour": LABELS[label]}
    return list(rows.values())


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the teacher before it is fine-tuned."""
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of each split."""
    folder = tmp_path_factory.mktemp("data")
    for split in ROWS:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_rows(split)))
    return {split: str(folder / f"{split}.jsonl") for split in ROWS}


Values = dict[str, Any]
MakeRecipe = Callable[..., Values]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_recipe(encoder: str, data: dict[str, str], tmp_path: Path, cache: Path) -> MakeRecipe:
    """Plain values of a recipe; keyword arguments replace keys inside a section (or the whole, by a plain value)."""
    base: Values = {
        "task": "text-classification",
        "teacher": {"model": encoder, "train": {"epochs": 6, "learning_rate": 3e-3, "batch_size": 16,
                                                "precision": "fp32", "log_every": 2}},
        "student": {"keep": "half"},
        "data": {**data, "label": "colour", "max_length": 16},
        "distillation": {"temperature": 4, "matches": {"layers": "uniform", "losses": ["hidden_mse", "nst"]}},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 2e-3, "precision": "fp32", "device": "cpu",
                     "log_every": 2},
        "output": str(tmp_path / "run"),
    }

    def make(**changes: Any) -> Values:
        values = copy.deepcopy(base)
        for key, change in changes.items():
            both = isinstance(change, dict) and isinstance(values.get(key), dict) and key not in ("student", "teacher")
            values[key] = {**values[key], **change} if both else change
        return values

    return make


@pytest.fixture
def write_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> Callable[..., str]:
    """The same as a file; gives its path."""

    def write(**changes: Any) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(make_recipe(**changes)))
        return str(path)

    return write


@pytest.fixture
def console() -> Console:
    """A console whose text a test can read: ``console.file.getvalue()``."""
    return Console(file=io.StringIO(), width=200)
