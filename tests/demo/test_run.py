"""The demo from harvest to table, with a tiny model in MiniLM's place and little text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertModel, BertTokenizer

from stillhouse.demo import run as demo
from stillhouse.demo.harvest import Harvest
from stillhouse.errors import ConfigError

CLASSES = tuple(f"library{i}" for i in range(8))


def small_harvest(**_: Any) -> Harvest:
    """Every class has words of its own, so that there is something to learn."""
    def rows(split: str, n: int) -> list[dict[str, str]]:
        return [{"text": f"w{c} w{(c + i) % 8} w{c} {split}", "library": name} for i in range(n)
                for c, name in enumerate(CLASSES)]

    splits = {"train": rows("train", 8), "validation": rows("dev", 2), "test": rows("test", 2)}
    counts = {split: dict.fromkeys(CLASSES, len(found) // 8) for split, found in splits.items()}
    return Harvest(**splits, class_names=CLASSES, counts=counts, sources={split: () for split in splits})


@pytest.fixture
def tiny_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "train", "dev", "test", *(f"w{i}" for i in range(8))]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(words), hidden_size=64, num_hidden_layers=6, num_attention_heads=2,
                                 intermediate_size=64, max_position_embeddings=64))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.setattr(demo, "pretrained_folder", lambda: folder)
    monkeypatch.setattr(demo, "harvest", small_harvest)
    return folder


@pytest.mark.runs
@pytest.mark.usefixtures("tiny_base")
def test_the_demo_ends_with_a_table_of_what_the_run_folders_say(tmp_path: Path) -> None:
    console = Console(record=True, width=150, force_terminal=False)
    folder = tmp_path / "demo"
    results = demo.main(folder, console)
    text = console.export_text()
    assert set(results) == {"T3", "T4-tiny"}
    for name in results:
        metrics = json.loads((folder / name / "metrics.json").read_text())
        assert (folder / name / "student" / "model.safetensors").exists()
        line = next(line for line in text.splitlines() if f"{name}, distilled" in line)
        assert f"{metrics['student']['accuracy']:.3f}" in line
        assert f"{metrics['student']['accuracy'] / metrics['teacher']['accuracy']:.1%}" in line
    assert "T4-tiny, no teacher" in text and "T3, no teacher" not in text
    assert str(folder) in text.replace("\n", "")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="--output"):
        demo.make_folder(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    demo.make_folder(tmp_path / "demo")
    (tmp_path / "demo" / "old").touch()
    demo.make_folder(tmp_path / "demo")
    assert not (tmp_path / "demo" / "old").exists()
