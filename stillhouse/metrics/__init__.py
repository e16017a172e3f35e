"""Metrics: how good a model's answers are."""

from __future__ import annotations

from stillhouse.metrics.classification import accuracy, agreement, classification_metrics, macro_f1

__all__ = ["accuracy", "agreement", "classification_metrics", "macro_f1"]
