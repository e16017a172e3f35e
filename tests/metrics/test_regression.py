"""Promises of the regression metrics, against hand computation."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch

from stillhouse.errors import DataError, OutputError
from stillhouse.metrics import pearson, regression_metrics, spearman


def naive_pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return both / (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5


def naive_ranks(values: list[float]) -> list[float]:
    """One more than the number of smaller values, and half the number of equal others."""
    return [1 + sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]


def test_spearman_with_ties_equals_hand_computation() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 1.5, 1.5, 4, 3 around their mean 2.5: products 1.5 + 0 + 0 + 0.75, squares 4.5 and 4.5.
    assert spearman([0.1, 0.5, 0.5, 0.9], [1.0, 1.0, 5.0, 3.0]) == pytest.approx(2.25 / 4.5)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_the_formulas(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 6, (30,), generator=generator).double()
    predictions = (targets + torch.randn(30, generator=generator)).round(decimals=0)
    found = regression_metrics(predictions, targets)
    a, b = predictions.tolist(), targets.tolist()
    assert found == pytest.approx({
        "spearman": naive_pearson(naive_ranks(a), naive_ranks(b)), "pearson": naive_pearson(a, b),
        "mse": sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 30})
    assert found["spearman"] == spearman(a, b) and found["pearson"] == pearson(a, b)


def test_spearman_sees_only_the_order_and_pearson_only_the_shape() -> None:
    targets = torch.tensor([0.0, 1.0, 2.0, 5.0])
    assert spearman(targets.exp(), targets) == pytest.approx(1.0)
    assert pearson(-3 * targets + 7, targets) == pytest.approx(-1.0)
    assert pearson(targets.exp(), targets) < 0.99


@pytest.mark.parametrize("score", [pearson, spearman])
@pytest.mark.parametrize("constant", [[0.1, 0.1, 0.1], [0.0, 0.0, 0.0], [-7.3e5] * 3])
def test_a_constant_has_no_correlation_and_no_warning(
        score: Callable[[list[float], list[float]], float], constant: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(constant, [1.0, 2.0, 3.0]) == score([1.0, 2.0, 3.0], constant) == score(constant, constant) == 0.0
        assert score(constant[:1], [2.0]) == 0.0


def test_a_difference_of_rounding_is_taken_for_constant_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pearson([1.0, 1.0 + 2e-16, 1.0], [1.0, 2.0, 3.0]) == 0.0
        assert pearson([1e-9, 2e-9, 3e-9], [1.0, 2.0, 3.0]) == pytest.approx(1.0)


def test_low_precision_predictions_are_compared_in_double() -> None:
    predictions = torch.tensor([1.0, 2.0, 4.0], dtype=torch.bfloat16, requires_grad=True)
    assert regression_metrics(predictions, [1, 2, 5])["mse"] == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize(("predictions", "targets", "error", "message"), [
    ([1.0], [1.0, 2.0], DataError, r"predictions \(1,\) and targets \(2,\) must be as many"),
    ([[1.0]], [[1.0]], DataError, "must be as many, one number a row"),
    ([], [], DataError, "no rows to score"),
    ([1.0, float("nan")], [1.0, 2.0], OutputError, r"the prediction of row 1 .counted from 0. is nan .1 of 2 rows"),
    ([1.0, 2.0], [float("inf"), 2.0], DataError, "the target of row 0 .counted from 0. is inf"),
])
def test_numbers_that_do_not_fit_are_refused(
        predictions: list[float], targets: list[float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        regression_metrics(predictions, targets)


def test_importing_the_metrics_does_not_load_its_statistics() -> None:
    script = "import sys, stillhouse.metrics; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
