"""Metrics of regression: one number a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.errors import DataError, OutputError

Numbers: TypeAlias = Tensor | Sequence[float]
"""One number a row: a tensor of (N,) or any sequence of numbers."""

_Array: TypeAlias = NDArray[np.float64]


def pearson(predictions: Numbers, targets: Numbers) -> float:
    """The linear correlation of predictions and targets, -1 to 1; 0 if either is constant.

    Raises as `regression_metrics`.
    """
    return _correlation(*_paired(predictions, targets))


def spearman(predictions: Numbers, targets: Numbers) -> float:
    """The correlation of the ranks of predictions and targets, -1 to 1; 0 if either is constant.

    Equal numbers share the mean of their ranks. Raises as `regression_metrics`.
    """
    return _rank_correlation(*_paired(predictions, targets))


def regression_metrics(predictions: Numbers, targets: Numbers) -> dict[str, float]:
    """``spearman``, ``pearson`` and ``mse`` (mean squared error, in squared units of the targets).

    Both are (N,) and are compared in double precision. Raises `DataError` if they are not as many, if there are none,
    or if a target is not finite, `OutputError` if a prediction is not.
    """
    predicted, wanted = _paired(predictions, targets)
    return {"spearman": _rank_correlation(predicted, wanted), "pearson": _correlation(predicted, wanted),
            "mse": float(np.mean((predicted - wanted) ** 2))}


def _rank_correlation(predicted: _Array, wanted: _Array) -> float:
    """Pearson's correlation of the ranks, from 1, ties averaged."""
    from scipy.stats import rankdata

    return _correlation(rankdata(predicted), rankdata(wanted))


def _correlation(predicted: _Array, wanted: _Array) -> float:
    """Pearson's correlation, 0 if either is constant."""
    from scipy.stats import pearsonr

    if _is_constant(predicted) or _is_constant(wanted):
        return 0.0
    return float(pearsonr(predicted, wanted).statistic)


def _is_constant(values: _Array) -> bool:
    """Whether the values differ by no more than rounding does (the bound below which scipy warns)."""
    return bool(np.linalg.norm(values - values.mean()) <= 1e-13 * abs(values.mean()))


def _paired(predictions: Numbers, targets: Numbers) -> tuple[_Array, _Array]:
    """Both as arrays of (N,), checked."""
    predicted, wanted = (torch.as_tensor(values).detach().cpu().double() for values in (predictions, targets))
    if predicted.dim() != 1 or predicted.shape != wanted.shape:
        raise DataError(f"predictions {tuple(predicted.shape)} and targets {tuple(wanted.shape)} must be as many, "
                        "one number a row")
    if not len(wanted):
        raise DataError("no rows to score: give at least one row with a target")
    for what, values, error in (("prediction", predicted, OutputError), ("target", wanted, DataError)):
        wrong = (~values.isfinite()).nonzero().flatten()
        if len(wrong):
            raise error(f"the {what} of row {int(wrong[0])} (counted from 0) is {float(values[wrong[0]])} "
                        f"({len(wrong)} of {len(values)} rows): scores need finite numbers")
    return predicted.numpy(), wanted.numpy()
