"""A finished run of every task: tiny models, some of them barely trained, and the data that they were judged on."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertModel, BertTokenizer

from stillhouse.recipe import Recipe, run
from stillhouse.tasks import TASKS
from stillhouse.tasks.pretrained import quiet_transformers, save_pretrained

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##b", "##c"]
ROWS = {"train": 24, "validation": 8, "test": 14}

Row = dict[str, Any]


def words(draw: random.Random, most: int = 8) -> list[str]:
    """Some of them are two pieces; no vocabulary has "z"."""
    return draw.choices([*"abcdefghij", "ab", "ac", "z"], k=draw.randint(3, most))


def text(draw: random.Random, most: int = 8) -> str:
    return " ".join(words(draw, most))


def question(draw: random.Random, split: str) -> Row:
    parts = [words(draw) for _ in range(3)]
    start = len(" ".join(parts[0])) + 1
    answer = {"text": [" ".join(parts[1][:2])], "answer_start": [start]}
    return {"question": text(draw, 5), "context": " ".join(" ".join(part) for part in parts), "answers": answer}


def sentence(draw: random.Random, split: str) -> Row:
    if split == "train":
        return {"text": text(draw)}
    return {"sentence1": text(draw), "sentence2": text(draw), "score": round(draw.random(), 3)}


def tagged(draw: random.Random, split: str) -> Row:
    found = words(draw)
    return {"tokens": found, "tags": [draw.choice(["O", "B-X", "I-X"]) for _ in found]}


@dataclass(frozen=True)
class Kind:
    """A task, its settings, and how a row is drawn."""

    task: str
    row: Callable[[random.Random, str], Row]
    data: Mapping[str, Any] = field(default_factory=dict)
    distillation: Mapping[str, Any] = field(default_factory=dict)


KINDS = {
    "single": Kind("text-classification",
                   lambda draw, split: {"note": text(draw), "more": text(draw), "colour": draw.choice("xyz")},
                   {"text": "note", "text_pair": "more", "label": "colour", "label_names": ["x", "y", "z"]}),
    "multi": Kind("text-classification",
                  lambda draw, split: {"text": text(draw), "label": draw.sample("xyz", draw.randrange(4))},
                  {"labels": "multi", "label_names": ["x", "y", "z"]}, {"loss": "bernoulli_kl"}),
    "regression": Kind("text-classification",
                       lambda draw, split: {"text": text(draw), "label": round(draw.random(), 3)},
                       {"labels": "regression"}, {"loss": "mse"}),
    "tags": Kind("token-classification", tagged, {"label_names": ["O", "B-X", "I-X"]}),
    "questions": Kind("question-answering", question,
                      {"stride": 3, "max_question_length": 6, "max_answer_length": 5}),
    "choices": Kind("multiple-choice", lambda draw, split: {
        "question": text(draw), "choices": [text(draw, 4) for _ in range(3)], "label": draw.choice("ABC")}),
    "sentences": Kind("sentence-embedding", sentence, {}, {"embedding": {"mse": 1}}),
    "masks": Kind("masked-lm", lambda draw, split: {"text": text(draw)}, {"pack": False}),
}


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
    files = {}
    for split, count in ROWS.items():
        draw = random.Random(split)
        rows = [json.dumps(kind.row(draw, split)) + "\n" for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(rows), "utf-8")
        files[split] = str(folder / f"{split}.jsonl")
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
