"""What a page may count on when its blocks run: a folder with small models and files of the names that pages use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from stillhouse.tasks.pretrained import quiet_transformers

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'()-"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{letter}" for letter in CHARACTERS)]
LABELS = ("negative", "neutral", "positive")
SPLITS = ("train", "dev", "test")
REPEATED = 8
"""How often the rows that a page shows of its training data stand in the file."""


def sizes() -> dict[str, Any]:
    return {"vocab_size": len(VOCABULARY), "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32,
            "num_hidden_layers": 6, "max_position_embeddings": 512}


def save_tokenizer(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)


def save_encoder(folder: Path) -> None:
    """A small encoder with its tokenizer, for the name of a public one."""
    with quiet_transformers():
        BertModel(BertConfig(**sizes())).save_pretrained(folder)
        save_tokenizer(folder)


def save_teacher(folder: Path) -> None:
    """A small classifier with its tokenizer."""
    names = dict(enumerate(LABELS))
    config = BertConfig(**sizes(), id2label=names, label2id={name: number for number, name in names.items()})
    with quiet_transformers():
        BertForSequenceClassification(config).save_pretrained(folder)
        save_tokenizer(folder)


def names() -> dict[str, Any]:
    """What python blocks find defined: two models, an optimizer, a loader of three batches, an evaluation."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (BertForSequenceClassification(BertConfig(**{**sizes(), "num_hidden_layers": depth},
                                                                 num_labels=3, output_hidden_states=True))
                        for depth in (6, 3))
    loader = [{"input_ids": torch.randint(5, 50, (4, 6), generator=generator),
               "attention_mask": torch.ones(4, 6, dtype=torch.long),
               "labels": torch.randint(0, 3, (4,), generator=generator)} for _ in range(3)]
    seen: list[int] = []
    return {"teacher": teacher, "student": student, "loader": loader, "dataloader": loader, "seen": seen,
            "optimizer": torch.optim.AdamW(student.parameters(), lr=1e-3),
            "evaluate": lambda model, step: seen.append(step)}


def write(folder: Path, title: str, text: str) -> None:
    """A file that a page shows. Of training data it shows the first rows: there are more, and other splits beside."""
    path = folder / title
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.stem != "train":
        path.write_text(text, encoding="utf-8")
        return
    head, rows = ("", text) if path.suffix != ".csv" else text.split("\n", 1)
    for split in SPLITS:
        beside = path.with_stem(split)
        if split == "train" or not beside.exists():
            beside.write_text((f"{head}\n" if head else "") + REPEATED * rows, encoding="utf-8")


def named_models(values: Any) -> Iterator[str]:
    """The models that a recipe names, its stages' among them."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in ("model", "base") and isinstance(value, str):
                yield value
            elif key == "models":
                yield from value
            else:
                yield from named_models(value)
    elif isinstance(values, list):
        for value in values:
            yield from named_models(value)


def save_models(folder: Path, values: Any) -> None:
    """A small encoder for each model that a recipe names and that is not there."""
    for name in named_models(values):
        if not (folder / name).exists():
            (folder / name).mkdir(parents=True)
            save_encoder(folder / name)
