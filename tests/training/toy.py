"""Small models, ragged rows and losses with every kind of denominator, for the tests of the training room."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import projections
from stillhouse.adaptors import FunctionAdaptor
from stillhouse.losses import NST, FunctionLoss, HiddenMSE, SoftCrossEntropy, UserLosses
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.schedules import Constant
from stillhouse.teachers import LiveTeacher
from stillhouse.types import Key, Unit

CLASSES, VOCABULARY, WIDTH_S, WIDTH_T = 3, 11, 6, 8
WEIGHTS = {"kd": 1.0, "hidden": 0.7, "nst": 0.3, "l1": 0.5, "first": 0.4, "hard": 0.6}
H1 = Key("hidden", 0)


class Toy(nn.Module):
    """Token-level logits, one hidden state, and the user's own mean loss (NaN when a batch has no label)."""

    def __init__(self, width: int, seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5)

        self.embedding, self.inner, self.out = (
            parameter(VOCABULARY, width), parameter(width, width), parameter(width, CLASSES)
        )
        self.dropout = nn.Dropout(dropout)
        self.forwards = 0

    def forward(self, ids: Tensor, mask: Tensor, keep: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.forwards += 1
        hidden = self.dropout(torch.tanh(self.embedding[ids] @ self.inner))
        logits = hidden @ self.out
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return {"logits": logits, "hidden": hidden, "loss": loss}


def rows(n: int = 8, seed: int = 3) -> list[dict[str, Tensor]]:
    """Rows of 1 to 7 positions; row 5 has no label at all."""
    generator, out = torch.Generator().manual_seed(seed), []
    for i in range(n):
        length = int(torch.randint(1, 8, (1,), generator=generator))
        labels = torch.randint(0, CLASSES, (length,), generator=generator)
        labels[torch.rand(length, generator=generator) < 0.3] = -100
        if i == 5:
            labels[:] = -100
        out.append({
            "ids": torch.randint(0, VOCABULARY, (length,), generator=generator),
            "labels": labels,
            "keep": torch.rand(length, generator=generator) < 0.7,
        })
    return out


def collate(chosen: list[dict[str, Tensor]], length: int = 0) -> dict[str, Tensor]:
    """A padded batch, at least ``length`` long."""
    length = max(length, *(len(row["ids"]) for row in chosen))

    def pad(name: str, value: Any) -> Tensor:
        return torch.stack([F.pad(row[name], (0, length - len(row[name])), value=value) for row in chosen])

    mask = torch.stack([torch.arange(length) < len(row["ids"]) for row in chosen])
    return {"ids": pad("ids", 0), "labels": pad("labels", -100), "keep": pad("keep", True), "mask": mask}


def split(sizes: list[int], chosen: list[dict[str, Tensor]] | None = None) -> list[dict[str, Tensor]]:
    """The rows, cut into micro-batches of the given sizes."""
    chosen, batches, start = chosen or rows(), [], 0
    for size in sizes:
        batches.append(collate(chosen[start:start + size]))
        start += size
    return batches


def declared_masks(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    labelled = batch["labels"] >= 0
    return {"logits_mask": batch["mask"] & batch["keep"], "inputs_mask": batch["mask"], "labels_mask": labelled,
            "losses_mask": labelled}


def translate(batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Any]:
    return {"logits": outputs["logits"], "hidden": [outputs["hidden"]], "losses": outputs["loss"],
            "labels": batch["labels"]}


def translate_with_masks(batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Any]:
    """The logits mask depends on what the model predicted, so no one knows it before the forward."""
    certain = outputs["logits"].detach().argmax(-1) != 1
    return translate(batch, outputs) | {"logits_mask": batch["mask"] & certain, "inputs_mask": batch["mask"]}


def adaptor(opaque: bool) -> FunctionAdaptor:
    return FunctionAdaptor(translate_with_masks) if opaque else FunctionAdaptor(translate, masks=declared_masks)


def l1(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return ((student - teacher[..., :WIDTH_S]).abs().mean(-1) * mask).sum() / mask.sum()


def first(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return (student[:, 0] - teacher[:, 0, :WIDTH_S]).square().mean()


def make_plan(opaque: bool = False, dropout: float = 0.0) -> Distillation:
    """Losses over tokens, pairs, rows, a user's means and the user's own loss; one has a projection."""
    torch.manual_seed(11)
    projection = projections.linear(WIDTH_S, WIDTH_T).double()
    with torch.no_grad():
        projection.linear.weight.normal_(std=0.3)
    losses = {
        "kd": SoftCrossEntropy(2.0),
        "hidden": HiddenMSE([H1], [H1], projection),
        "nst": NST([H1, H1], [H1, H1]),
        "l1": FunctionLoss(l1, [H1], [H1]),
        "first": FunctionLoss(first, [H1], [H1], unit=Unit.ROW),
        "hard": UserLosses(),
    }
    objective = Objective([Term(name, loss, Constant(WEIGHTS[name])) for name, loss in losses.items()])
    teacher = LiveTeacher(Toy(WIDTH_T, 2), FunctionAdaptor(translate, masks=declared_masks))
    return Distillation(Toy(WIDTH_S, 1, dropout), adaptor(opaque), teacher, objective)


def whole_batch_loss(plan: Distillation, opaque: bool, chosen: list[dict[str, Tensor]] | None = None) -> Tensor:
    """The plan's loss on all rows at once, written down from the formulas with plain means."""
    batch = collate(chosen or rows())
    teacher_model = plan.teacher.model  # type: ignore[attr-defined]
    s, t = plan.student(**batch), {k: v.detach() for k, v in teacher_model(**batch).items()}
    kept = translate_with_masks(batch, s)["logits_mask"] if opaque else declared_masks(batch)["logits_mask"]
    mask, labelled = batch["mask"], batch["labels"] >= 0
    kd = -((t["logits"] / 2).softmax(-1) * (s["logits"] / 2).log_softmax(-1)).sum(-1)[kept].mean()
    projection = plan.objective.losses["hidden"].projection  # type: ignore[union-attr]
    hidden = F.mse_loss(projection(s["hidden"])[mask], t["hidden"][mask])  # type: ignore[operator]
    difference = s["hidden"] @ s["hidden"].mT / WIDTH_S - t["hidden"] @ t["hidden"].mT / WIDTH_T
    lengths = mask.sum(1).tolist()
    nst = sum(difference[i, :n, :n].square().sum() for i, n in enumerate(lengths)) / sum(n * n for n in lengths)
    hard = F.cross_entropy(s["logits"][labelled], batch["labels"][labelled])
    terms = {"kd": kd, "hidden": hidden, "nst": nst, "l1": l1(s["hidden"], t["hidden"], mask),
             "first": first(s["hidden"], t["hidden"], mask), "hard": hard}
    return sum(WEIGHTS[name] * value for name, value in terms.items())  # type: ignore[return-value]
