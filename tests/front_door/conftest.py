"""A tiny classifier that teaches, rows for it, and the arguments of a short distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from tests.recipe.conftest import LABELS, WORDS, make_rows

Values = dict[str, Any]
TASK = "text-classification"
NAMES = sorted(LABELS)
SHORT = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "precision": "fp32", "device": "cpu", "log_every": 2}
DISTILLATION = {"temperature": 2, "hard_label_weight": 1.0}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory, and a cache, of each test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))


def make_tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


def make_teacher() -> BertForSequenceClassification:
    """A teacher with a head for the labels, as it was drawn."""
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, initializer_range=0.6, id2label=dict(enumerate(NAMES)),
        label2id={name: number for number, name in enumerate(NAMES)}))


tokenizer = pytest.fixture(make_tokenizer, name="tokenizer")
teacher = pytest.fixture(make_teacher, name="teacher")


@pytest.fixture
def rows() -> dict[str, list[Values]]:
    return {split: list(make_rows(split)) for split in ("train", "validation", "test")}


@pytest.fixture
def arguments(teacher: BertForSequenceClassification, tokenizer: BertTokenizer,
              rows: dict[str, list[Values]]) -> Values:
    """What `distill` takes; a test replaces what it is about."""
    return {"teacher": teacher, "tokenizer": tokenizer, "student": {"keep": 1}, **rows, "task": TASK,
            "label": "colour", "max_length": 16, "distillation": DISTILLATION, "training": SHORT, "progress": False}
