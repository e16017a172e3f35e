"""Promises of convolutional layers, against a sum over the words around."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from torch.testing import assert_close

from stillhouse.students.convolutional import ConvolutionalConfig, ConvolutionalLayer


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_layer_adds_what_it_finds_around_each_word(kernel_size: int) -> None:
    torch.manual_seed(0)
    layer = ConvolutionalLayer(4, kernel_size, dropout=0.5).double().eval()
    states = torch.randn(1, 6, 4).double()
    weight, bias = layer.convolution.weight, layer.convolution.bias
    assert bias is not None
    for place in range(6):
        found = bias.clone()
        for tap in range(kernel_size):
            neighbour = place + tap - kernel_size // 2
            if 0 <= neighbour < 6:
                found = found + weight[:, :, tap] @ states[0, neighbour]
        expected = F.layer_norm(states[0, place] + F.gelu(found), (4,))
        assert_close(layer(states, torch.ones(1, 6, dtype=torch.bool))[0, place], expected)


@pytest.mark.parametrize("kernel_size", [0, 2, True, 3.0])
def test_a_kernel_without_a_middle_is_refused(kernel_size: Any) -> None:
    with pytest.raises(StrictDataclassError, match=f"kernel_size is {kernel_size!r}: give an odd number"):
        ConvolutionalConfig(kernel_size=kernel_size)
