"""A tiny vocabulary, tokenizer and classifier, saved as a user's would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

from stillhouse.tasks.pretrained import quiet_transformers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]


def tiny_config(**changes: Any) -> BertConfig:
    sizes = {"vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertConfig(**sizes, intermediate_size=8, max_position_embeddings=32, **changes)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with an encoder without a head, and its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    with quiet_transformers():
        BertModel(tiny_config()).save_pretrained(folder)
        BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def classifier(tmp_path: Path) -> Callable[..., str]:
    """Saves a classifier with the given label names and gives its folder."""

    def save(*names: str) -> str:
        torch.manual_seed(1)
        id2label = dict(enumerate(names))
        with quiet_transformers():
            BertForSequenceClassification(tiny_config(id2label=id2label)).save_pretrained(tmp_path / "classifier")
        return str(tmp_path / "classifier")

    return save


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSON lines and gives the file's path."""

    def save(name: str, *rows: Any) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(tmp_path / name)

    return save
