"""The same mathematics as a loop of plain PyTorch, as a careful engineer would write it for this one experiment.

It reads the batches that our run reads, in the same order and precision, and asks the live teacher every time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from benchmarks.setting import Job, Setting, read_rows
from benchmarks.turns import Pace, until_stopped

LOG_EVERY = 50


class Student(nn.Module):
    """A model and the projections of its layers to the teacher's width."""

    def __init__(self, model: PreTrainedModel, setting: Setting) -> None:
        super().__init__()
        self.model = model
        widths = setting.student.width, setting.teacher.width
        self.projections = nn.ModuleList(nn.Linear(*widths) for _ in setting.pairs)

    def forward(self, **inputs: Tensor) -> Any:
        """The model's own outputs, all hidden states among them."""
        return self.model(**inputs, output_hidden_states=True)


def distillation_loss(student: Student, mine: Any, theirs: Any, mask_BL: Tensor, setting: Setting) -> Tensor:
    """KL at a temperature, and for each pair of layers MSE (projected) and NST, as means over what is no padding."""
    temperature = setting.temperature
    loss = temperature**2 * F.kl_div((mine.logits.float() / temperature).log_softmax(-1),
                                     (theirs.logits.float() / temperature).log_softmax(-1),
                                     reduction="batchmean", log_target=True)
    mask_BL1 = mask_BL.unsqueeze(-1).float()
    num_tokens, num_pairs = mask_BL1.sum(), mask_BL1.sum(1).square().sum()
    for projection, (teacher_layer, student_layer) in zip(student.projections, setting.pairs, strict=True):
        mine_BLH, theirs_BLH = mine.hidden_states[student_layer], theirs.hidden_states[teacher_layer]
        difference = projection(mine_BLH).float() - theirs_BLH.float()
        loss = loss + (difference * mask_BL1).square().mean(-1).sum() / num_tokens
        with torch.autocast(mask_BL.device.type, enabled=False):
            gram = _gram(mine_BLH.float() * mask_BL1) - _gram(theirs_BLH.float() * mask_BL1)
        loss = loss + gram.square().sum() / num_pairs
    return loss


def _gram(states_BLH: Tensor) -> Tensor:
    return states_BLH @ states_BLH.transpose(1, 2) / states_BLH.shape[-1]


def adamw(student: Student, learning_rate: float) -> torch.optim.AdamW:
    """Fused AdamW without weight decay for vectors."""
    parameters = list(student.parameters())
    return torch.optim.AdamW([
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ], lr=learning_rate, fused=True)


def _batches(tokens: Sequence[Tensor], order: Sequence[Sequence[int]]) -> Iterator[dict[str, Tensor]]:
    for rows in order:
        ids = pad_sequence([tokens[row] for row in rows], batch_first=True)
        lengths = torch.tensor([len(tokens[row]) for row in rows]).unsqueeze(1)
        yield {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths).long()}


def _order(tokens: Sequence[Tensor], job: Job) -> list[list[int]]:
    """The rows of each batch of our first epoch."""
    from stillhouse.tasks.batching import BucketSampler

    lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
    return list(BucketSampler(lengths, batch_size=job.setting.batch_size, seed=job.seed, shuffle=True))


def encoded(job: Job) -> list[Tensor]:
    """The token ids of each training row. (BERT's padding has the id 0.)"""
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "teacher")
    texts = [row["sentence"] for row in read_rows(job.folder / "train.jsonl", job.num_rows)]
    ids = tokenizer(texts, truncation=True, max_length=job.setting.max_length)["input_ids"]
    return [torch.tensor(row) for row in ids]


def load(job: Job, side: str) -> PreTrainedModel:
    """The ``teacher`` or the ``student``, on the device that is used, in training mode or not as fits it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(job.folder / side)
    module: nn.Module = model
    module.to(device).train(side == "student")
    return model


def _train(job: Job) -> None:
    from stillhouse.training import resolve_precision

    torch.manual_seed(job.seed)
    teacher, student = load(job, "teacher"), Student(load(job, "student"), job.setting)
    device = next(teacher.parameters()).device
    student.to(device)
    dtype = resolve_precision("auto", device).autocast_dtype
    optimizer = adamw(student, job.setting.learning_rate)
    warmup = max(1, round(0.1 * job.num_steps))
    schedule = LambdaLR(optimizer, lambda step: min((step + 1) / warmup, 1 - (step - warmup) / job.num_steps))
    tokens = encoded(job)
    order = _order(tokens, job)
    for step, cpu_batch in enumerate(_batches(tokens, order)):
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in cpu_batch.items()}
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            with torch.no_grad():
                theirs = teacher(**batch, output_hidden_states=True)
            loss = distillation_loss(student, student(**batch), theirs, batch["attention_mask"], job.setting)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % LOG_EVERY == 0:
            print(f"step {step + 1}: {loss.item():.4f}", file=sys.stderr)


def main() -> None:
    """Train until no more turns are wanted."""
    job = Job.read(Path(sys.argv[1]))
    Pace(job).start()
    with until_stopped():
        _train(job)


if __name__ == "__main__":
    main()
