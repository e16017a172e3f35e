"""Finished runs of every task, written by hand: tiny students that nothing has trained, and data to judge them on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

from stillhouse.recipe import Recipe
from stillhouse.recipe.run_folder import write_recipe
from stillhouse.tasks import TASKS
from stillhouse.tasks.pretrained import quiet_transformers, save_pretrained

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(395))]
ROWS = {"train": 8, "validation": 6, "test": 40}
LONGEST = 24

Row = dict[str, Any]


def words(draw: random.Random, most: int = 8) -> list[str]:
    return draw.choices(WORDS[5:], k=draw.randint(2, most))


def text(draw: random.Random, most: int = 8) -> str:
    return " ".join(words(draw, most))


def question(draw: random.Random, split: str) -> Row:
    parts = [words(draw) for _ in range(3)]
    answer = {"text": [" ".join(parts[1])], "answer_start": [len(" ".join(parts[0])) + 1]}
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


KINDS = {
    "single": Kind("text-classification", lambda draw, split: {"text": text(draw), "label": draw.choice("xyz")},
                   {"label_names": ["x", "y", "z"]}),
    "multi": Kind("text-classification",
                  lambda draw, split: {"text": text(draw), "label": draw.sample("xyz", draw.randrange(4))},
                  {"labels": "multi", "label_names": ["x", "y", "z"]}),
    "regression": Kind("text-classification",
                       lambda draw, split: {"text": text(draw), "label": round(draw.random(), 3)},
                       {"labels": "regression"}),
    "tags": Kind("token-classification", tagged, {"label_names": ["O", "B-X", "I-X"]}),
    "questions": Kind("question-answering", question,
                      {"stride": 3, "max_question_length": 6, "max_answer_length": 9}),
    "choices": Kind("multiple-choice", lambda draw, split: {
        "question": text(draw), "choices": [text(draw, 4) for _ in range(3)], "label": draw.choice("ABC")}),
    "sentences": Kind("sentence-embedding", sentence),
    "masks": Kind("masked-lm", lambda draw, split: {"text": text(draw)}, {"pack": False}),
}


@dataclass(frozen=True)
class Run:
    """A run folder, and the files of its data."""

    path: Path
    files: Mapping[str, Path]

    @property
    def student(self) -> str:
        return str(self.path / "student")


def make_run(kind: Kind, folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, count in ROWS.items():
        draw = random.Random(split)
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(kind.row(draw, split)) + "\n" for _ in range(count)), "utf-8")
    data = {**{split: str(path) for split, path in files.items()}, "max_length": LONGEST, **kind.data}
    save_encoder(folder / "encoder")
    task = TASKS[kind.task](TASKS[kind.task].data.of(**data))
    task.load()
    for name, seed in (("teacher", 1), ("run/student", 2)):
        torch.manual_seed(seed)
        with quiet_transformers():
            save_pretrained(task.load_model(str(folder / "encoder")), AutoTokenizer.from_pretrained(folder / "encoder"),
                            folder / name)
    recipe = Recipe.from_dict({"task": kind.task, "teacher": {"model": str(folder / "teacher")},
                               "student": {"keep": "half"}, "data": data, "output": str(folder / "run")})
    write_recipe(folder / "run", recipe)
    return Run(folder / "run", files)


def save_encoder(folder: Path) -> None:
    """With weights large enough for answers to differ."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=48, max_position_embeddings=LONGEST + 40, initializer_range=0.3)
    with quiet_transformers():
        BertModel(config).save_pretrained(folder)
        BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
