"""The device that is tested, and what its numbers are compared with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stillhouse.training import Precision

DEVICE, CPU = torch.device("cuda"), torch.device("cpu")
FP32, BF16, FP16 = Precision(), Precision(torch.bfloat16), Precision(torch.float16)

needs_device = pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(),
                                  reason="there is no CUDA device on this machine")


def assert_close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """The same numbers on whatever device."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance / 100, check_device=False)
