"""Losses between the student's logits and labels, against loops over rows and classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse.adaptors.base import labels_mask
from stillhouse.errors import OutputError
from stillhouse.losses import BinaryLabels, HardLabels, Loss, SquaredError
from stillhouse.objective import Objective, Term
from stillhouse.types import LABELS, LOGITS, Over, Progress, Unit

from .naive import binary_labels, squared_error

Naive = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
KEPT = [0, 2]  # the second of three rows has no label

CASES: dict[type[Loss], tuple[Naive, Tensor, tuple[int, int]]] = {
    BinaryLabels: (binary_labels, torch.tensor([[0.0, 1, 1, 0], [math.nan] * 4, [1, 0, 0, 0]]), (3, 4)),
    SquaredError: (squared_error, torch.tensor([0.25, math.nan, -3.5]), (3, 1)),
}
every = pytest.mark.parametrize("kind", list(CASES))


def logits_for(kind: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(CASES[kind][2], generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def value(kind: Any, logits: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    labels = CASES[kind][1] if labels is None else labels
    mask = labels_mask(labels).any(dim=1, keepdim=True) if mask is None else mask
    return kind()({LOGITS: logits, LABELS: labels}, {}, {"labels": mask})


def value_and_gradient(kind: Any, logits: Tensor, **others: Any) -> tuple[Tensor, Tensor]:
    found = value(kind, logits, **others)
    (gradient,) = torch.autograd.grad(found, logits)
    return found.detach(), gradient


@every
def test_value_and_gradient_equal_a_loop_over_rows_with_labels(kind: Any) -> None:
    naive, labels, _ = CASES[kind]
    found, gradient = value_and_gradient(kind, logits_for(kind))
    logits = logits_for(kind)
    expected = naive(logits, labels, KEPT)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found, expected.detach(), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradient, wanted, atol=1e-10, rtol=1e-10)
    assert gradient[1].eq(0).all() and gradient[KEPT].ne(0).all()


@every
def test_the_value_is_a_sum_over_rows(kind: Any) -> None:
    logits, labels = logits_for(kind), CASES[kind][1]
    each = [value(kind, logits[[row]], labels[[row]]) for row in range(3)]
    torch.testing.assert_close(sum(each), value(kind, logits))
    assert each[1].item() == 0 and kind().scope == "rows"


@every
def test_the_mean_is_over_rows_with_labels(kind: Any) -> None:
    objective, logits = Objective([Term("hard", kind())]), logits_for(kind)
    masks = {"labels": torch.tensor([[1], [0], [1]])}
    sums = objective({LOGITS: logits, LABELS: CASES[kind][1]}, {}, masks, Progress(0, 1))
    mean, _ = objective.combine(sums, objective.counts(masks), Progress(0, 1))
    assert mean is not None and mean.item() == pytest.approx(value(kind, logits).item() / 2)
    assert kind().over == Over(Unit.ROW, "labels") and kind().needs.student == {LOGITS, LABELS}
    assert not kind().needs.teacher


@every
@pytest.mark.parametrize("content", [5.0, math.nan, math.inf])
def test_nothing_leaks_out_of_rows_without_a_label(kind: Any, content: float) -> None:
    dirty = logits_for(kind).detach()
    dirty[1] = content
    dirty.requires_grad_()
    found, expected = value_and_gradient(kind, dirty), value_and_gradient(kind, logits_for(kind))
    assert found[0].item() == expected[0].item() and found[1].equal(expected[1])


@every
def test_no_row_with_a_label_is_zero_with_a_graph(kind: Any) -> None:
    labels = torch.full_like(CASES[kind][1], math.nan)
    found, gradient = value_and_gradient(kind, logits_for(kind), labels=labels)
    assert found.item() == 0 and gradient.eq(0).all()


@every
def test_rows_that_the_mask_leaves_out_do_not_count(kind: Any) -> None:
    naive, labels, _ = CASES[kind]
    found = value(kind, logits_for(kind), mask=torch.tensor([[0], [0], [1]]))
    torch.testing.assert_close(found, naive(logits_for(kind), labels, [2]))


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_brought_to_float32_whatever_autocast_says(kind: Any, dtype: torch.dtype) -> None:
    half = logits_for(kind, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = value(kind, half)
    expected = value(kind, half.detach().float())
    assert found.dtype == torch.float32 and found.item() == expected.item()


@every
def test_float64_stays(kind: Any) -> None:
    assert value(kind, logits_for(kind)).dtype == torch.float64


def test_large_logits_of_several_labels_stay_finite() -> None:
    logits = torch.tensor([[3e4, -3e4]], requires_grad=True)
    found, gradient = value_and_gradient(BinaryLabels, logits, labels=torch.tensor([[0.0, 1.0]]))
    assert found.item() == pytest.approx(3e4) and gradient.tolist() == [[0.5, -0.5]]


@every
def test_labels_of_another_shape_are_refused_for_rows(kind: Any) -> None:
    logits, labels = torch.zeros(3, 2), torch.zeros(3, 3) if kind is BinaryLabels else torch.zeros(3)
    with pytest.raises(OutputError, match=r"labels have shape \(3,.*\), the logits \(3, 2\); there must be one for"):
        value(kind, logits, labels)


# One of several classes


def predictions() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()


def hard(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    return HardLabels()({LOGITS: logits, LABELS: labels}, {}, {"labels": mask})


def test_labels_below_zero_are_left_out() -> None:
    student = predictions()
    labels = torch.tensor([[0, -100, 4], [-1, 2, -100]])
    expected = -sum(student[b, i].log_softmax(dim=-1)[labels[b, i]] for b, i in ((0, 0), (0, 2), (1, 1)))
    torch.testing.assert_close(hard(student, labels, torch.ones(2, 3)), expected)
    (gradient,) = torch.autograd.grad(hard(student, labels, torch.ones(2, 3)), student)
    assert gradient[labels.lt(0)].eq(0).all() and gradient[labels.ge(0)].ne(0).all()


def test_labels_that_the_mask_leaves_out_do_not_count() -> None:
    student = predictions()
    labels, mask = torch.tensor([[0, 1, 4], [3, 2, 1]]), torch.tensor([[1, 0, 1], [0, 1, 0]])
    ignored = labels.masked_fill(mask.eq(0), -100)
    torch.testing.assert_close(hard(student, labels, mask), hard(student, ignored, torch.ones(2, 3)))


def test_no_labels_at_all_are_zero_with_a_graph() -> None:
    student = predictions()
    value = hard(student, torch.full((2, 3), -100), torch.zeros(2, 3))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == 0 and gradient.eq(0).all()


def test_nothing_leaks_out_of_unlabelled_positions() -> None:
    student = predictions()
    labels = torch.tensor([[0, -100, 4], [3, 2, 1]])
    dirty = student.detach().clone()
    dirty[0, 1] = math.nan
    dirty.requires_grad_()
    (expected,) = torch.autograd.grad(hard(student, labels, torch.ones(2, 3)), student)
    (gradient,) = torch.autograd.grad(hard(dirty, labels, torch.ones(2, 3)), dirty)
    assert gradient.equal(expected)


def test_a_label_per_row_goes_with_logits_per_row() -> None:
    student = predictions()
    labels = torch.tensor([3, -100])
    expected = -student[0, 0].log_softmax(dim=-1)[3]
    torch.testing.assert_close(hard(student[:, 0], labels, torch.tensor([[1], [0]])), expected)


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(OutputError, match=r"labels have shape \(2, 4\), the logits of \(rows, positions\) \(2, 3\)"):
        hard(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4))


def test_classes_that_are_not_there_have_no_share_and_no_gradient() -> None:
    there = torch.tensor([True, False, True, True, False])
    student, labels = predictions(), torch.tensor([[0, 2, 3], [3, -100, 0]])
    wide = student.detach().masked_fill(~there, -math.inf).requires_grad_()
    narrow = student.detach()[..., there].clone().requires_grad_()
    numbers = torch.tensor([0, -1, 1, 2, -1])[labels.clamp_min(0)].masked_fill(labels.lt(0), -100)
    found, expected = hard(wide, labels, torch.ones(2, 3)), hard(narrow, numbers, torch.ones(2, 3))
    torch.testing.assert_close(found, expected)
    (wide_gradient,), (narrow_gradient,) = torch.autograd.grad(found, wide), torch.autograd.grad(expected, narrow)
    torch.testing.assert_close(wide_gradient[..., there], narrow_gradient)
    assert wide_gradient[..., ~there].eq(0).all()
