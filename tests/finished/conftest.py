"""A finished run of every task: tiny models, some of them barely trained, and the data that they were judged on."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertModel, BertTokenizer

from stillhouse.recipe import Recipe, run
from stillhouse.tasks import TASKS
from stillhouse.tasks.pretrained import quiet_transformers, save_pretrained
from tests.task_rows import Kind, Row, kinds

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##b", "##c"]
ROWS = {"train": 24, "validation": 8, "test": 14}


def words(draw: random.Random, most: int) -> list[str]:
    """Some of them are two pieces; no vocabulary has "z"."""
    return draw.choices([*"abcdefghij", "ab", "ac", "z"], k=draw.randint(3, most))


KINDS = kinds(words)


@dataclass(frozen=True)
class Finished:
    """A run and its data."""

    kind: Kind
    output: Path
    files: Mapping[str, str]

    @property
    def lines(self) -> list[Any]:
        """What ``predictions.jsonl`` holds."""
        return [json.loads(line) for line in (self.output / "predictions.jsonl").read_text("utf-8").splitlines()]

    @property
    def metrics(self) -> Any:
        return json.loads((self.output / "metrics.json").read_text("utf-8"))

    def rows(self, split: str = "test") -> list[Row]:
        return [json.loads(line) for line in Path(self.files[split]).read_text("utf-8").splitlines()]


def make(kind: Kind, folder: Path) -> Finished:
    files = {split: str(path) for split, path in kind.write(folder, ROWS).items()}
    data = {**files, "max_length": 30, **kind.data}
    recipe = {
        "task": kind.task, "teacher": {"model": teacher(kind.task, data, folder / "teacher")},
        "student": {"keep": "half"}, "data": data, "distillation": {"hard_label_weight": 0, **kind.distillation},
        "training": {"steps": 2, "batch_size": 8, "precision": "fp32", "device": "cpu"}, "cache": "off",
        "output": str(folder / "run")}
    result = run(Recipe.from_dict(recipe), console=Console(file=io.StringIO()))
    return Finished(kind, result.output, files)


def teacher(task: str, data: Mapping[str, Any], folder: Path) -> str:
    """A model with a head that nothing has trained, but whose weights are large enough for answers to differ."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=32, initializer_range=0.5)
    with quiet_transformers():
        BertModel(config).save_pretrained(folder / "encoder")
        BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder / "encoder")
    made = TASKS[task](TASKS[task].data.of(**data))
    made.load()
    save_pretrained(made.load_model(str(folder / "encoder")), made.load_tokenizer(str(folder / "encoder")), folder)
    return str(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """The run of a kind, made when it is first asked for."""
    made: dict[str, Finished] = {}

    def get(name: str) -> Finished:
        if name not in made:
            made[name] = make(KINDS[name], tmp_path_factory.mktemp(name))
        return made[name]

    return get
