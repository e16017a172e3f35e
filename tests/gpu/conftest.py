"""Kernels as exact as the CPU's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def exact_kernels() -> Iterator[None]:
    """No TF32 in convolutions and recurrent layers: its ten bits would hide what these tests look for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to rename this setting
        kept, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = kept
