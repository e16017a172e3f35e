"""Promises of the metrics of masked language modelling."""

from __future__ import annotations

import math

import pytest
import torch

from stillhouse.errors import DataError
from stillhouse.metrics import masked_lm_metrics


def test_even_guesses_have_the_perplexity_of_the_vocabulary() -> None:
    found = masked_lm_metrics(3, 12, 12 * math.log(50))
    assert found == pytest.approx({"accuracy": 0.25, "perplexity": 50.0})


def test_perplexity_is_the_exponent_of_the_mean_cross_entropy() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    labels = torch.arange(7) % 5
    total = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    geometric_mean = logits.softmax(-1)[torch.arange(7), labels].prod().item() ** (1 / 7)
    assert masked_lm_metrics(0, 7, total)["perplexity"] == pytest.approx(1 / geometric_mean)


def test_a_perplexity_too_large_for_a_float_is_infinite() -> None:
    assert masked_lm_metrics(0, 1, 1e4)["perplexity"] == math.inf


@pytest.mark.parametrize(("correct", "total", "message"), [
    (0, 0, "no masked tokens to score .total 0."),
    (5, 4, "5 of 4 masked tokens cannot be correct"),
    (-1, 4, "-1 of 4 masked tokens cannot be correct"),
])
def test_counts_that_cannot_be_are_refused(correct: int, total: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        masked_lm_metrics(correct, total, 1.0)
