"""Small data files of every task, a tiny teacher, and the two commands as an app of their own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import BertConfig, BertModel, BertTokenizer

from stillhouse.setting_up.commands import doctor_command, init_command
from stillhouse.tasks.pretrained import quiet_transformers

WORDS = [*"abcdefghijklmnop"]
LABELS = ("green", "red", "blue")
app = typer.Typer(pretty_exceptions_enable=False)
app.command("init")(init_command)
app.command("doctor")(doctor_command)


def sentence(draw: random.Random, low: int = 2, high: int = 9) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))


def labelled(count: int = 30, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of an id, a text, who wrote it, and one of three labels."""
    draw = random.Random(seed)
    return [{"id": f"row-{seed}-{i}", "question": f"{sentence(draw)} {WORDS[i % 16]} {seed}",
             "author": sentence(draw, 1, 1), "intent": LABELS[i % 3]} for i in range(count)]


def tagged(count: int = 30) -> list[dict[str, Any]]:
    draw = random.Random(1)
    rows = []
    for _ in range(count):
        words = sentence(draw).split()
        rows.append({"tokens": words, "ner_tags": [draw.choice(["O", "B-X", "I-X"]) for _ in words]})
    return rows


def asked(count: int = 12) -> list[dict[str, Any]]:
    draw = random.Random(2)
    rows = []
    for number in range(count):
        context = sentence(draw, 12, 20)
        rows.append({"id": str(number), "question": sentence(draw), "context": context,
                     "answers": {"text": [context[:3]], "answer_start": [0]}})
    return rows


def scored(count: int = 20, seed: int = 3) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"sentence1": sentence(draw), "sentence2": sentence(draw), "score": round(5 * draw.random(), 2)}
            for _ in range(count)]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV or JSON lines, by the suffix."""
    rows = list(rows)
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Saves a tiny model of a class, with its tokenizer, and gives the folder."""
    def save(kind: type = BertModel, **settings: Any) -> str:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        path = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        config = BertConfig(**{"vocab_size": len(words), "hidden_size": 32, "num_hidden_layers": 4,
                               "num_attention_heads": 2, "intermediate_size": 32, **settings})
        with quiet_transformers():
            kind(config).save_pretrained(path)
            BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(path)
        return str(path)

    return save


@pytest.fixture(scope="session")
def teacher(save_model: Callable[..., str]) -> str:
    return save_model()
