"""The small tools that losses are made of."""

from __future__ import annotations

import math

import pytest
import torch

from stillhouse.errors import OutputError
from stillhouse.losses.base import as_tokens, blank, full_precision, require_mask, require_same_shape, upcast


@pytest.mark.parametrize(("given", "found"), [
    (torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32),
    (torch.float64, torch.float64), (torch.int64, torch.int64),
])
def test_only_halves_are_upcast(given: torch.dtype, found: torch.dtype) -> None:
    assert upcast(torch.ones(2, dtype=given)).dtype == found


def test_a_value_per_row_is_a_sequence_of_length_one() -> None:
    assert as_tokens(torch.zeros(3, 4)).shape == (3, 1, 4)
    assert as_tokens(torch.zeros(3, 2, 4)).shape == (3, 2, 4)


def test_blank_stops_values_and_gradients() -> None:
    values = torch.tensor([[[1.0, 2.0], [math.nan, math.inf]]], requires_grad=True)
    blanked = blank(values, torch.tensor([[1, 0]]))
    blanked.square().sum().backward()
    assert blanked.tolist() == [[[1.0, 2.0], [0.0, 0.0]]]
    assert values.grad is not None and values.grad.tolist() == [[[2.0, 4.0], [0.0, 0.0]]]


def test_full_precision_switches_autocast_off_inside_alone() -> None:
    a = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(a):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16


def test_shapes_that_differ_are_refused_with_both() -> None:
    with pytest.raises(OutputError, match=r"logits: the student gives \(2, 3\), the teacher \(2, 4\); do this"):
        require_same_shape("logits", torch.zeros(2, 3), torch.zeros(2, 4), "do this")
    with pytest.raises(OutputError, match=r"a mask is \(rows, positions\), and \(rows, 1\) for one value a row"):
        require_mask("logits", torch.zeros(2, 1, 3), torch.zeros(2, 5))
