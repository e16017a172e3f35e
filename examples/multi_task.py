"""One student for several classification tasks, each with a teacher of its own.

    python examples/multi_task.py tasks.yaml --output runs/two-tasks --steps 5000

    # tasks.yaml: one entry a task
    intents: {teacher: runs/intents/student, train: intents.csv, test: intents-test.csv, text: text, label: intent}
    mood: {teacher: runs/mood/student, train: mood.csv, test: mood-test.csv, text: sentence, label: label}

The student's encoder is the lower layers of the first teacher's; each task has a head that starts from its teacher's. A
file with one task trains a single-task student in the very same way. Prints the accuracies of each task as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from stillhouse import (
    DistillationConfig,
    FunctionAdaptor,
    MultiTaskDistiller,
    StudentSpec,
    TrainingConfig,
    build_student,
)
from stillhouse.tasks import TextClassificationData
from stillhouse.tasks.batching import BucketLoader, EncodedSplit
from stillhouse.tasks.text_classification import TextClassification


class SharedStudent(nn.Module):
    """A BERT-like encoder with a pooler and a classifier for each task; gives every task's logits by name."""

    def __init__(self, encoder: nn.Module, teachers: Mapping[str, PreTrainedModel]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({
            task: nn.Sequential(copy.deepcopy(teacher.base_model.pooler.dense), nn.Tanh(), nn.Dropout(0.1),
                                copy.deepcopy(teacher.classifier))
            for task, teacher in teachers.items()
        })

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        inputs.pop("labels", None)
        first_BH = self.encoder(**inputs).last_hidden_state[:, 0]
        return {task: head(first_BH) for task, head in self.heads.items()}


@dataclass
class Part:
    """What belongs to one task."""

    task: TextClassification
    teacher: PreTrainedModel
    loader: BucketLoader
    test: EncodedSplit

    @classmethod
    def load(cls, settings: Mapping[str, Any], batch_size: int, seed: int) -> Part:
        """From an entry of the file: ``teacher``, and what `TextClassificationData` takes."""
        spec = TextClassificationData.of(**{key: value for key, value in settings.items() if key != "teacher"})
        task = TextClassification(spec)
        task.load()
        tokenizer = task.load_tokenizer(settings["teacher"])
        loader = task.loader(task.encode("train", tokenizer), batch_size=batch_size, seed=seed, shuffle=True)
        return cls(task, task.load_model(settings["teacher"]), loader, task.encode("test", tokenizer))


def head_of(task: str) -> FunctionAdaptor:
    """Reads one task's logits of the shared student. There is one prediction a row, so every row is kept."""
    return FunctionAdaptor(lambda batch, outputs: {"logits": outputs[task]},
                           masks=lambda batch: {"logits_mask": torch.ones_like(batch["input_ids"][:, :1])})


def accuracy(student: SharedStudent, name: str, part: Part) -> float:
    """Of one task's head on its test rows."""
    hits = 0
    with torch.no_grad():
        for start in range(0, len(part.test), 64):
            batch = part.test.batch(range(start, min(start + 64, len(part.test))))
            hits += int((student(**batch)[name].argmax(-1) == batch["labels"]).sum())
    return hits / len(part.test)


def main() -> None:
    """Read the tasks, train, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="a YAML file with one entry a task")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tau", type=float, default=1.0, help="1 draws tasks by size, 0 all alike")
    parser.add_argument("--shape", default="T3")
    parser.add_argument("--temperature", type=float, default=8.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True)
    args = parser.parse_args()

    parts = {name: Part.load(entry, args.batch_size, args.seed)
             for name, entry in yaml.safe_load(Path(args.tasks).read_text()).items()}
    teachers = {name: part.teacher for name, part in parts.items()}
    first = next(iter(teachers.values()))
    student = SharedStudent(build_student(first, StudentSpec(shape=args.shape), seed=args.seed).base_model, teachers)

    def evaluate(model: SharedStudent, step: int) -> dict[str, dict[str, float]]:
        model.eval()
        return {name: {"accuracy": accuracy(model, name, part)} for name, part in parts.items()}

    distiller = MultiTaskDistiller(
        TrainingConfig(output_dir=args.output, seed=args.seed, log_every=100),
        DistillationConfig(temperature=args.temperature, kd_loss_type="forward_kl"),
        teachers, student, {name: part.task.adaptor() for name, part in parts.items()},
        {name: head_of(name) for name in parts},
    )
    with distiller:
        result = distiller.train(
            torch.optim.AdamW(student.parameters(), lr=args.learning_rate, fused=True),
            {name: part.loader for name, part in parts.items()}, num_steps=args.steps, tau=args.tau,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": args.steps // 10, "num_training_steps": args.steps},
            max_grad_norm=1.0, callback=evaluate,
        )
    of_teachers = {name: part.task.evaluate(part.teacher, part.test).metrics["accuracy"]
                   for name, part in parts.items()}
    print(json.dumps({"teachers": of_teachers, "student": result.evaluations[result.steps]}))


if __name__ == "__main__":
    main()
