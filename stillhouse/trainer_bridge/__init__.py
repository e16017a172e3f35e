"""Distillation inside the training loop of transformers.

    trainer.py    DistillationTrainer           teaching.py   who teaches, and where answers are kept
    learning.py   what is learned, as losses    ranks.py      several processes, around a student that is wrapped
    refusals.py   what cannot work together

The losses, teachers and caches are those of the whole house.
"""

from __future__ import annotations

from stillhouse.trainer_bridge.trainer import DistillationTrainer

__all__ = ["DistillationTrainer"]
