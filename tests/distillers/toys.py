"""Small models, batches and adaptors for the tests of the distillers, in float64 so that formulas can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import BasicDistiller, DistillationConfig, GeneralDistiller, TrainingConfig

CLASSES = 3
TEACHER, STUDENT = {"width": 8, "layers": 3, "seed": 1}, {"width": 6, "layers": 2, "seed": 2}
MATCH = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 2.0, "proj": ["linear", 6, 8]}


class Toy(nn.Module):
    """x of (B, L, 4) -> logits of rows (B, 3) and of tokens (B, L, 3), hidden states, attention scores, a pooled row.

    The loss, if there are labels, is a mean over rows for labels of (B,), over labelled tokens for (B, L).
    """

    def __init__(self, width: int, layers: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(4 if i == 0 else width, width) for i in range(layers))
        self.pooler, self.out, self.tokens = nn.Linear(width, width), nn.Linear(width, CLASSES), nn.Linear(width, 3)
        self.unused = nn.Linear(width, width)
        self.calls: list[bool] = []
        self.double()
        with torch.no_grad():  # large enough for every term to matter
            for parameter in self.parameters():
                parameter.mul_(3)

    def forward(self, x: Tensor, labels: Tensor | None = None, scale: float = 1.0) -> dict[str, Any]:
        self.calls.append(self.training)
        hidden, attention = [], []
        for layer in self.layers:
            x = torch.tanh(layer(x))
            hidden.append(x)
            attention.append((x @ x.mT).unsqueeze(1))
        pooled = torch.tanh(self.pooler(x.mean(1)))
        out: dict[str, Any] = {"logits": self.out(pooled) * scale, "tokens": self.tokens(x) * scale, "hidden": hidden,
                               "attention": attention, "pooled": pooled, "loss": None}
        if labels is not None:
            logits = out["logits"] if labels.dim() == 1 else out["tokens"]
            out["loss"] = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100)
        return out


def teacher(seed: int = 1) -> Toy:
    return Toy(8, 3, seed)


def student(seed: int = 2) -> Toy:
    return Toy(6, 2, seed)


def adaptor(batch: Any, out: Mapping[str, Any]) -> dict[str, Any]:
    """Logits of rows, hidden states, and losses if the model gave one."""
    found = {"logits": out["logits"], "hidden": out["hidden"]}
    return found if out["loss"] is None else found | {"losses": out["loss"]}


def logits_only(batch: Any, out: Mapping[str, Any]) -> dict[str, Any]:
    return {"logits": out["logits"]}


def batches(n: int = 4, rows: int = 6, length: int = 5, seed: int = 5) -> list[tuple[Tensor, Tensor]]:
    """(x, labels of rows)."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(rows, length, 4, generator=generator, dtype=torch.float64),
             torch.randint(0, CLASSES, (rows,), generator=generator)) for _ in range(n)]


def token_batch(rows: int = 6, length: int = 5, seed: int = 9) -> dict[str, Tensor]:
    """A batch with a ragged mask, another one, and labels of tokens of which some are ignored."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    labels = torch.randint(0, CLASSES, (rows, length), generator=generator)
    return {"x": torch.randn(rows, length, 4, generator=generator, dtype=torch.float64),
            "mask": (torch.arange(length) < lengths).long(),
            "other": torch.rand(rows, length, generator=generator) < 0.6,
            "labels": labels.masked_fill(torch.rand(rows, length, generator=generator) < 0.3, -100)}


def slices(batch: Mapping[str, Tensor], *sizes: int) -> list[dict[str, Tensor]]:
    """The batch's rows in micro-batches of the given sizes."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [{name: value[start:start + size] for name, value in batch.items()}
            for start, size in zip(starts, sizes, strict=True)]


class Reading(Toy):
    """A toy that takes the masks of `token_batch` too, and does not look at them."""

    def forward(self, x: Tensor, labels: Tensor | None = None, scale: float = 1.0, **masks: Tensor) -> dict[str, Any]:
        return super().forward(x, labels, scale)


class Endless:
    """Batches from a generator, anew for each epoch; without a length."""

    def __init__(self, given: Iterable[Any]) -> None:
        self.given, self.epochs = list(given), 0

    def __iter__(self) -> Iterator[Any]:
        self.epochs += 1
        yield from self.given


def tconf(folder: Path | None, **settings: Any) -> TrainingConfig:
    output = None if folder is None else str(folder / "out")
    return TrainingConfig(device="cpu", output_dir=output, **settings)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([torch.empty(0), *(parameter.detach().flatten() for parameter in model.parameters())])


def kd(s: Tensor, t: Tensor, temperature: float = 4.0) -> Tensor:
    """The paper's KD cross-entropy of each prediction."""
    return -((t / temperature).softmax(-1) * (s / temperature).log_softmax(-1)).sum(-1)


def basic(folder: Path | None, adaptor_T: Any = adaptor, adaptor_S: Any = adaptor, training: Any = None,
          model: Callable[..., Toy] = Toy, **config: Any) -> BasicDistiller:
    return BasicDistiller(tconf(folder, **(training or {})), DistillationConfig(**config), model(**TEACHER),
                          model(**STUDENT), adaptor_T, adaptor_S)


def general(folder: Path | None, adaptor_T: Any = adaptor, adaptor_S: Any = adaptor, training: Any = None,
            model: Callable[..., Toy] = Toy, custom_matches: Any = None, **config: Any) -> GeneralDistiller:
    return GeneralDistiller(tconf(folder, **(training or {})), DistillationConfig(**config), model(**TEACHER),
                            model(**STUDENT), adaptor_T, adaptor_S, custom_matches)
