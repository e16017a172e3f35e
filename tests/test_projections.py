"""Projections have the stated start, shape and precision."""

from __future__ import annotations

import pytest
import torch

from stillhouse.projections import Projection, linear, relu, tanh


@pytest.mark.parametrize(("make", "function"), [(linear, lambda x: x), (relu, lambda x: x.clamp_min(0)),
                                                (tanh, lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()))])
def test_a_projection_is_a_linear_map_and_an_activation(make: object, function: object) -> None:
    assert callable(make) and callable(function)
    projection: Projection = make(3, 5)
    features = torch.randn(2, 4, 3) * 20
    expected = torch.stack([torch.stack([projection.linear.weight @ x + projection.linear.bias for x in row])
                            for row in features])
    torch.testing.assert_close(projection(features), function(expected))
    assert (projection.dim_student, projection.dim_teacher) == (3, 5)


def test_weights_start_small_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    projection = linear(200, 300)
    assert abs(projection.linear.weight.std().item() - 0.02) < 5e-4
    assert abs(projection.linear.weight.mean().item()) < 5e-4
    assert projection.linear.bias.eq(0).all()


def test_features_of_another_precision_are_taken() -> None:
    assert linear(3, 5)(torch.randn(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
    assert linear(3, 5).double()(torch.randn(2, 3)).dtype == torch.float64
