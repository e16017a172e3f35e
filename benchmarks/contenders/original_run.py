"""A whole training of the original, judged: ``python -m MODULE FOLDER``; the result is ``FOLDER/result.json``.

Below the folder: ``job.json`` with the setting, the paths and the epochs; ``teacher`` and ``student``, which both hold
a tokenizer. After each epoch the student is judged on the validation data by the original's callback, which keeps the
best weights; these are judged on the test data.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from benchmarks.contenders.original import load, loader, train
from benchmarks.setting import Setting


@torch.no_grad()
def accuracy(model: nn.Module, batches: Any) -> float:
    """The share of rows whose label is the model's first choice."""
    model.eval()
    device = next(model.parameters()).device
    right = total = 0
    for batch in batches:
        labels = batch.pop("labels")
        logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
        right += int((logits.argmax(-1).cpu() == labels).sum())
        total += len(labels)
    return right / total


def main() -> None:
    """Train, judge, write the result."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    setting = Setting.from_dict(job["setting"])
    torch.manual_seed(job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    teacher, student = load(folder / "teacher"), load(folder / "student")
    splits = {split: loader(Path(path), tokenizer, setting, shuffle=split == "train")
              for split, path in job["data"].items()}
    best, weights = -1.0, student.state_dict()

    def judge(model: nn.Module, step: int) -> None:
        nonlocal best, weights
        judged = accuracy(model, splits["validation"])
        if judged > best:
            best, weights = judged, {name: tensor.clone() for name, tensor in model.state_dict().items()}

    started = time.perf_counter()
    train(setting, teacher, student, splits["train"], folder / "checkpoints", epochs=job["epochs"], callback=judge)
    seconds = time.perf_counter() - started
    student.load_state_dict(weights)
    result = {"validation": best, "test": accuracy(student, splits["test"]), "seconds": seconds}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
