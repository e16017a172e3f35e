"""The original, TextBrewer 0.2.1.post1, the way its documentation shows; runs in an environment of its own.

Batches are random and padded to their longest row, everything is float32, the optimizer is torch's AdamW, and
`GeneralDistiller.train` is the loop. Nothing in it is patched: with current versions it imports and trains as it is.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    get_linear_schedule_with_warmup,
)

from benchmarks.setting import Job, Setting, read_rows
from benchmarks.turns import Pace, until_stopped


def distillation_config(setting: Setting) -> Any:
    """Its settings for the losses: `hidden_mse` with a projection, and `nst`, at each pair of layers."""
    projection = ["linear", setting.student.width, setting.teacher.width]
    matches = []
    for teacher, student in setting.pairs:
        matches += [
            {"layer_T": teacher, "layer_S": student, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
             "proj": list(projection)},
            {"layer_T": [teacher, teacher], "layer_S": [student, student], "feature": "hidden", "loss": "nst",
             "weight": 1},
        ]
    return _textbrewer().DistillationConfig(temperature=setting.temperature, intermediate_matches=matches)


def adaptor(batch: dict[str, Any], outputs: Any) -> dict[str, Any]:
    """What the original reads of a model's outputs."""
    return {"logits": outputs.logits, "hidden": outputs.hidden_states, "inputs_mask": batch["attention_mask"]}


def load(folder: Path) -> PreTrainedModel:
    """A model that gives its hidden states."""
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder, output_hidden_states=True)
    module: torch.nn.Module = model
    module.to(_device())
    return model


def loader(path: Path, tokenizer: Any, setting: Setting, *, shuffle: bool = True) -> DataLoader[Any]:
    """Batches of rows in random order, padded to the longest; the labels are the last column, ``labels``."""
    rows = read_rows(path)
    encoded = tokenizer([row["sentence"] for row in rows], truncation=True, max_length=setting.max_length)
    items = [{"input_ids": ids, "labels": row["label"]} for ids, row in zip(encoded["input_ids"], rows, strict=True)]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        return dict(tokenizer.pad(batch, return_tensors="pt"))

    return DataLoader(items, batch_size=setting.batch_size, shuffle=shuffle, collate_fn=collate)  # type: ignore[arg-type]


def train(setting: Setting, teacher: PreTrainedModel, student: PreTrainedModel, batches: DataLoader[Any],
          output_dir: Path, *, epochs: int, callback: Any = None) -> None:
    """Train with the original's loop; a checkpoint at the end of each epoch, as it is by default."""
    textbrewer = _textbrewer()
    config = textbrewer.TrainingConfig(device=_device(), output_dir=str(output_dir))
    distiller = textbrewer.GeneralDistiller(config, distillation_config(setting), teacher, student, adaptor, adaptor)
    optimizer = torch.optim.AdamW(student.parameters(), lr=setting.learning_rate)
    steps = len(batches) * epochs
    with distiller:
        distiller.train(optimizer, batches, num_epochs=epochs, scheduler_class=get_linear_schedule_with_warmup,
                        scheduler_args={"num_warmup_steps": round(0.1 * steps), "num_training_steps": steps},
                        callback=callback, batch_postprocessor=_without_labels)


def _textbrewer() -> Any:
    return importlib.import_module("textbrewer")


def _without_labels(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Train until no more turns are wanted."""
    job = Job.read(Path(sys.argv[1]))
    Pace(job).start()
    torch.manual_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "teacher")
    with until_stopped():
        train(job.setting, load(job.folder / "teacher"), load(job.folder / "student"),
              loader(job.folder / "train.jsonl", tokenizer, job.setting), job.folder / "original", epochs=1)


if __name__ == "__main__":
    main()
