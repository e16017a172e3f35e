"""A tiny teacher and student of tokens in float64, ragged rows, and a trainer of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertConfig,
    BertForTokenClassification,
    TrainerCallback,
    TrainingArguments,
)

from stillhouse.trainer_bridge import DistillationTrainer

CLASSES, WIDTH_S, WIDTH_T, TEMPERATURE = 3, 8, 12, 2.0
WEIGHTS = {"kd": 1.0, "hidden": 0.7, "nst": 0.3, "hard": 0.6}
SECTION: dict[str, Any] = {
    "temperature": TEMPERATURE, "loss_weight": WEIGHTS["kd"], "hard_label_weight": WEIGHTS["hard"],
    "matches": [{"layers": [[2, 1]], "loss": "hidden_mse", "weight": WEIGHTS["hidden"]},
                {"layers": [[0, 0]], "loss": "nst", "weight": WEIGHTS["nst"]}],
}


def model(width: int, depth: int, seed: int, dropout: float = 0.0) -> BertForTokenClassification:
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=20, hidden_size=width, num_hidden_layers=depth, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=16, num_labels=CLASSES,
                        hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0, initializer_range=0.5)
    return BertForTokenClassification(config).double()


def teacher() -> BertForTokenClassification:
    return model(WIDTH_T, 2, 1)


def student(dropout: float = 0.0) -> BertForTokenClassification:
    return model(WIDTH_S, 1, 2, dropout)


def rows(n: int = 8) -> list[dict[str, list[int]]]:
    """Rows of 2 to 7 tokens, of which some have no label."""
    generator, out = torch.Generator().manual_seed(3), []
    for _ in range(n):
        length = int(torch.randint(2, 8, (1,), generator=generator))
        labels = torch.randint(0, CLASSES, (length,), generator=generator)
        labels[torch.rand(length, generator=generator) < 0.3] = -100
        out.append({"input_ids": torch.randint(1, 20, (length,), generator=generator).tolist(),
                    "labels": labels.tolist()})
    return out


def collate(chosen: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in chosen)

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in chosen])

    kept = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in chosen])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": kept}


class Gradients(TrainerCallback):
    """Keeps the gradients of each optimizer step, as the optimizer sees them."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.trainer: Any = None

    def on_pre_optimizer_step(self, *args: Any, **options: Any) -> None:
        self.steps.append({name: parameter.grad.clone() for name, parameter in self.trainer.bundle.named_parameters()
                           if parameter.grad is not None})


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    usual: dict[str, Any] = {
        "per_device_train_batch_size": 8, "num_train_epochs": 1, "learning_rate": 1e-2, "max_grad_norm": 0.0,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1,
        "dataloader_pin_memory": False, "lr_scheduler_type": "constant",
    }
    return TrainingArguments(output_dir=str(folder), **(usual | settings))


def trainer(folder: Path, *, callbacks: Any = None, data: Any = None, options: Any = None,
            **settings: Any) -> DistillationTrainer:
    """The toy, with training arguments as ``settings`` and ``options`` of the trainer itself."""
    usual: dict[str, Any] = {"distillation": SECTION, "teacher": teacher()}
    made = DistillationTrainer(
        (options or {}).pop("model", None) or student(), arguments(folder, **settings), collate,
        rows() if data is None else data, callbacks=callbacks, **(usual | (options or {})))
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in made.bundle.objective.parameters():  # an orthogonal start would hide a transposed product
            parameter.normal_(std=0.3)
    return made


def gradients(folder: Path, **settings: Any) -> list[dict[str, Tensor]]:
    """The gradients of each optimizer step of a training."""
    watch = Gradients()
    made = trainer(folder, callbacks=[watch], **settings)
    watch.trainer = made
    made.train()
    return watch.steps


def naive_loss(made: DistillationTrainer, chosen: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """The terms of all rows at once, written down from the formulas with plain means."""
    batch = collate(chosen)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        t = made.plan.teacher.model(**inputs, output_hidden_states=True)  # type: ignore[attr-defined]
    s = made.bundle.student(**inputs, output_hidden_states=True)
    mask = batch["attention_mask"].bool()
    log_s, log_t = ((side.logits / TEMPERATURE).log_softmax(-1) for side in (s, t))
    kd = TEMPERATURE**2 * (log_t.exp() * (log_t - log_s)).sum(-1)[mask].mean()
    projection: Any = made.bundle.objective.losses["hidden_mse 2-1"].projection  # type: ignore[union-attr]
    hidden = F.mse_loss(projection(s.hidden_states[1])[mask], t.hidden_states[2][mask])
    lengths = mask.sum(1).tolist()
    gram = [side.hidden_states[0] @ side.hidden_states[0].mT / width for side, width in ((s, WIDTH_S), (t, WIDTH_T))]
    difference = gram[0] - gram[1]
    nst = sum(difference[i, :n, :n].square().sum() for i, n in enumerate(lengths)) / sum(n * n for n in lengths)
    labelled = batch["labels"] >= 0
    hard = F.cross_entropy(s.logits[labelled], batch["labels"][labelled])
    return {"kd": kd, "hidden": hidden, "nst": nst, "hard": hard}


def naive_gradients(made: DistillationTrainer, chosen: list[dict[str, list[int]]]) -> tuple[dict[str, Tensor], float]:
    """The gradient of the naive loss, and the loss."""
    loss = sum(WEIGHTS[name] * value for name, value in naive_loss(made, chosen).items())
    made.bundle.zero_grad()
    loss.backward()  # type: ignore[union-attr]
    found = {name: parameter.grad.clone() for name, parameter in made.bundle.named_parameters()
             if parameter.grad is not None}
    made.bundle.zero_grad()
    return found, float(loss.detach())  # type: ignore[union-attr]
