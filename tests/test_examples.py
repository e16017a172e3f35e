"""The examples run as their docstrings say."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from stillhouse.tasks.pretrained import quiet_transformers

EXAMPLES = Path(__file__).parents[1] / "examples"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "book", "a"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two teachers of the same labels, and their data."""
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
                            intermediate_size=32, max_position_embeddings=128, id2label={0: "bad", 1: "good"},
                            label2id={"bad": 0, "good": 1})
        with quiet_transformers():
            BertForSequenceClassification(config).save_pretrained(tmp_path / f"teacher{seed}")
            BertTokenizer(vocab={w: i for i, w in enumerate(WORDS)}).save_pretrained(tmp_path / f"teacher{seed}")
    draw = random.Random(0)
    for split, rows in (("train", 24), ("test", 6)):
        lines = [f"a {word} {draw.choice(['film', 'book'])},{word}" for word in ["good", "bad"] * (rows // 2)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return tmp_path


def output_of(folder: Path, example: str, *arguments: str) -> dict[str, object]:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, object] = json.loads(run.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.runs
def test_a_student_of_two_teachers(folder: Path) -> None:
    found = output_of(folder, "multi_teacher.py", "--teachers", "teacher0", "teacher1", "--weights", "2", "1",
                      "--average", "probabilities", "--train", "train.csv", "--test", "test.csv", "--epochs", "1",
                      "--batch-size", "8", "--output", "out")
    assert set(found) == {"teachers", "mean of the teachers", "student", "checkpoint"}
    assert (folder / str(found["checkpoint"]) / "model.safetensors").exists()


@pytest.mark.runs
def test_a_student_of_two_tasks(folder: Path) -> None:
    entry = "{{teacher: teacher{0}, train: train.csv, test: test.csv, text: text, label: label}}"
    (folder / "tasks.yaml").write_text(f"one: {entry.format(0)}\ntwo: {entry.format(1)}\n")
    found = output_of(folder, "multi_task.py", "tasks.yaml", "--steps", "4", "--batch-size", "8", "--output", "out")
    assert set(found["student"]) == {"one/accuracy", "two/accuracy"}  # type: ignore[call-overload]
    assert (folder / "out" / "gs4" / "model.safetensors").exists()
