"""Finished runs of every task, written by hand: tiny students that nothing has trained, and data to judge them on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

from stillhouse.recipe import Recipe
from stillhouse.recipe.run_folder import write_recipe
from stillhouse.tasks import TASKS
from stillhouse.tasks.pretrained import quiet_transformers, save_pretrained
from tests.task_rows import Kind, kinds

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(395))]
ROWS = {"train": 8, "validation": 6, "test": 40}
LONGEST = 24


def words(draw: random.Random, most: int) -> list[str]:
    return draw.choices(WORDS[5:], k=draw.randint(2, most))


KINDS = kinds(words) | {"single": Kind(
    "text-classification", lambda draw, split: {"text": " ".join(words(draw, 8)), "label": draw.choice("xyz")},
    {"label_names": ["x", "y", "z"]})}


@dataclass(frozen=True)
class Run:
    """A run folder, and the files of its data."""

    path: Path
    files: Mapping[str, Path]

    @property
    def student(self) -> str:
        return str(self.path / "student")


def make_run(kind: Kind, folder: Path) -> Run:
    files = kind.write(folder, ROWS)
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
