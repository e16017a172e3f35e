"""Metrics: how good a model's answers are."""

from __future__ import annotations

from stillhouse.metrics.classification import (
    accuracy,
    agreement,
    classification_metrics,
    macro_f1,
    multi_label_metrics,
)
from stillhouse.metrics.language_modelling import masked_lm_metrics
from stillhouse.metrics.question_answering import cmrc_metrics, squad_metrics, squad_normalized
from stillhouse.metrics.regression import pearson, regression_metrics, spearman
from stillhouse.metrics.tagging import entity_metrics, is_chunked

__all__ = [
    "accuracy",
    "agreement",
    "classification_metrics",
    "cmrc_metrics",
    "entity_metrics",
    "is_chunked",
    "macro_f1",
    "masked_lm_metrics",
    "multi_label_metrics",
    "pearson",
    "regression_metrics",
    "spearman",
    "squad_metrics",
    "squad_normalized",
]
