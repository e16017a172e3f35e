"""Promises of clipping."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stillhouse.training.gradients import clip


def model_with_gradients(sparse: bool) -> nn.Module:
    """A table of which rows 1 and 4 have gradients, row 1 from two places, a layer, and a parameter without any."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, sparse=sparse), nn.Linear(3, 2), nn.LayerNorm(2))
    layer, norm = model[1], model[2]
    layer(model[0](torch.tensor([[1, 4], [1, 4]])[:, :2])).square().sum().backward()
    layer(model[0](torch.tensor([[1]]))).sum().backward()
    assert norm.weight.grad is None
    return model


@pytest.mark.parametrize("max_norm", [0.05, 1e6])
def test_a_sparse_gradient_counts_like_the_dense_one(max_norm: float) -> None:
    dense, sparse = model_with_gradients(False), model_with_gradients(True)
    before = torch.cat([p.grad.flatten() for p in dense.parameters() if p.grad is not None])
    untouched = copy.deepcopy(before)
    norms = [clip(model.parameters(), max_norm) for model in (dense, sparse)]
    torch.testing.assert_close(norms, [untouched.norm()] * 2)
    for p, q in zip(dense.parameters(), sparse.parameters(), strict=True):
        if p.grad is None:
            assert q.grad is None
            continue
        assert q.grad is not None
        torch.testing.assert_close(q.grad.to_dense(), p.grad)
    after = torch.cat([p.grad.flatten() for p in dense.parameters() if p.grad is not None])
    torch.testing.assert_close(after, untouched * min(1.0, max_norm / float(untouched.norm())))
