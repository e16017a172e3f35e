"""Metrics of masked language modelling, from counts that can be added up over batches."""

from __future__ import annotations

import math

from stillhouse.errors import DataError


def masked_lm_metrics(correct: int, total: int, negative_log_likelihood: float) -> dict[str, float]:
    """``accuracy`` (0 to 1) and ``perplexity`` (1 or more) of the masked tokens.

    ``correct`` of the ``total`` masked tokens were predicted; ``negative_log_likelihood`` is the sum over all of them,
    in nats (not the mean). A perplexity too large for a float is infinite. Raises `DataError` if there are no masked
    tokens or ``correct`` is not among them.
    """
    if total < 1:
        raise DataError(f"no masked tokens to score (total {total}): use longer texts or mask a larger share")
    if not 0 <= correct <= total:
        raise DataError(f"{correct} of {total} masked tokens cannot be correct: count 0 to {total}")
    try:
        perplexity = math.exp(negative_log_likelihood / total)
    except OverflowError:
        perplexity = math.inf
    return {"accuracy": correct / total, "perplexity": perplexity}
