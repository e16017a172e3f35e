"""The weights of an ONNX file in 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic


def write_int8(path: Path, int8_path: Path) -> None:
    """Write a graph again, with matrices and embeddings in 8 bits; activations are quantized as it runs.

    Each column of a matrix has a scale of its own. Weights use 7 of the 8 bits: without the instructions of newer
    processors, sums of two products of full 8 bits overflow, and answers were off by five times as much.
    """
    with _quiet():
        quantize_dynamic(str(path), str(int8_path), op_types_to_quantize=["MatMul", "Gemm", "Gather", "LSTM"],
                         per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """It advises, on the root logger, to run a step of preprocessing that changes nothing in these graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
