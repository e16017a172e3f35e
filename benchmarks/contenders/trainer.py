"""``transformers.Trainer`` with its ``compute_loss`` replaced, as blog posts show it, and tuned by its own settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

from benchmarks.contenders.minimal import Student, distillation_loss, encoded, load
from benchmarks.setting import Job, Setting
from benchmarks.turns import Pace, until_stopped

TUNED: dict[str, Any] = {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"}


class DistillationTrainer(Trainer):
    """Asks the teacher in ``compute_loss``."""

    def __init__(self, *args: Any, teacher: torch.nn.Module, setting: Setting, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher, self.setting = teacher, setting

    def compute_loss(self, model: Student, inputs: dict[str, Tensor], return_outputs: bool = False,  # type: ignore[override]
                     num_items_in_batch: Tensor | None = None) -> Any:
        """The loss, with the student's outputs if they are asked for."""
        with torch.no_grad():
            theirs = self.teacher(**inputs, output_hidden_states=True)
        mine = model(**inputs)
        loss = distillation_loss(model, mine, theirs, inputs["attention_mask"], self.setting)
        return (loss, mine) if return_outputs else loss


def _train(job: Job, way: str) -> None:
    from stillhouse.training.precision import has_fast_bf16

    torch.manual_seed(job.seed)
    teacher, student = load(job, "teacher"), Student(load(job, "student"), job.setting)
    device = next(teacher.parameters()).device
    tuned: dict[str, Any] = {**TUNED, "bf16": has_fast_bf16(device)} if way == "tuned" else {}
    arguments = TrainingArguments(
        output_dir=str(job.folder / f"trainer-{way}"), num_train_epochs=1, seed=job.seed,
        per_device_train_batch_size=job.setting.batch_size, learning_rate=job.setting.learning_rate,
        warmup_steps=round(0.1 * job.num_steps), weight_decay=0.01, logging_steps=50, save_strategy="no",
        report_to="none", disable_tqdm=True, remove_unused_columns=False, use_cpu=device.type == "cpu", **tuned)
    rows = [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in encoded(job)]
    collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(job.folder / "teacher"))
    DistillationTrainer(model=student, args=arguments, train_dataset=rows, data_collator=collator, teacher=teacher,
                        setting=job.setting).train()


def main() -> None:
    """Train until no more turns are wanted, the ``blog`` way or ``tuned``."""
    job = Job.read(Path(sys.argv[1]))
    Pace(job).start()
    with until_stopped():
        _train(job, sys.argv[2])


if __name__ == "__main__":
    main()
