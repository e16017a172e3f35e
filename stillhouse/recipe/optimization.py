"""Optimizer, learning rate and options of one training, from a recipe's settings."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from stillhouse.recipe.training_schema import TrainingSettings
from stillhouse.training import EverySteps, PerEpoch
from stillhouse.training.saving import SavePolicy
from stillhouse.types import Duration, DurationUnit

_FUSED = {"cpu", "cuda", "xpu", "mps"}


def adamw(modules: list[nn.Module], learning_rate: float, weight_decay: float) -> AdamW:
    """AdamW over everything trainable in ``modules``; biases and normalisation weights (vectors) do not decay."""
    trained = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in _FUSED and p.is_floating_point() for p in trained)
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=fused)


def learning_rate_schedule(optimizer: AdamW, name: str, warmup_steps: int, total_steps: int) -> LambdaLR:
    """A scheduler to be stepped after every optimizer step."""
    return LambdaLR(optimizer, learning_rate_factor(name, warmup_steps, total_steps))


def learning_rate_factor(name: str, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The learning rate of a step (from 0) as a share of the highest.

    It rises in equal steps and is highest in the last step of the warm-up; ``linear`` and ``cosine`` would reach 0 in
    the step after the last.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[name]

    return factor


def warmup_steps(settings: TrainingSettings, steps_per_epoch: int, total_steps: int) -> int:
    """The length of the warm-up, at most the whole training."""
    wanted = Duration.parse(settings.warmup).in_steps(steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    return min(wanted, total_steps)


def save_policy(settings: TrainingSettings, steps_per_epoch: int, total_steps: int) -> SavePolicy:
    """When checkpoints are kept and judged. With a number of steps, epochs have no ends and are counted in steps."""
    every = Duration.parse(settings.evaluate_every)
    if every.unit is DurationUnit.EPOCHS and settings.epochs is not None:
        return PerEpoch(1, int(every.value), steps_per_epoch, settings.epochs)
    return EverySteps(max(1, every.in_steps(steps_per_epoch=steps_per_epoch, total_steps=total_steps)))


def steps_per_epoch(num_batches: int, accumulation: int) -> int:
    """Optimizer steps in one pass; the last may have fewer micro-batches."""
    return -(-num_batches // accumulation)

