"""Whether a graph answers as its model does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch

from stillhouse.errors import OutputError
from stillhouse.export.graphs import Asked
from stillhouse.export.sessions import OnnxModel
from stillhouse.modes import evaluation
from stillhouse.tasks import EncodedSplit

TOLERANCE = 1e-3
"""The largest difference between two outputs that is taken for rounding."""
_FEW, _MANY = 8, 32


@final
@dataclass(frozen=True)
class Parity:
    """How far a graph's outputs are from its model's.

    Attributes:
        max_difference: the largest absolute one, over all batches; outputs at padding do not count.
        batches: what they were compared on: rows, and tokens of the longest.
    """

    max_difference: float
    batches: tuple[tuple[int, int], ...]


def compared(asked: Asked, graph: OnnxModel, encoded: EncodedSplit, *, per_token: bool) -> Parity:
    """Compare them on single rows, and on rows of different lengths together, of which the shorter ones are padded.

    Args:
        asked: the model, on the CPU.
        graph: what was made of it.
        encoded: the rows; the shortest and the longest are among those compared.
        per_token: whether outputs are (B, L, ...), of which only those that ``attention_mask`` keeps mean anything.
    """
    largest, batches = 0.0, []
    with torch.no_grad(), evaluation(asked):
        for rows in _batches(encoded):
            batch = encoded.batch(rows)
            found, kept = graph.of(batch), batch["attention_mask"].ne(0)
            for name, wanted in zip(asked.outputs, asked.of(batch), strict=True):
                difference = _difference(wanted, found[name])
                difference = difference[kept] if per_token else difference
                largest = torch.tensor([largest, float(difference.max())]).max().item()  # NaN stays NaN
            batches.append((len(rows), kept.shape[-1]))
    return Parity(largest, tuple(batches))


def require_parity(parity: Parity) -> None:
    """Raise `OutputError` unless all differences are below the tolerance."""
    if not parity.max_difference < TOLERANCE:
        raise OutputError(f"the ONNX file answers otherwise than the student: outputs differ by up to "
                          f"{parity.max_difference:.3g}, and rounding explains less than {TOLERANCE}; nothing was "
                          "written. Try another --opset, or use the student in torch")


def _difference(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    if wanted.shape != found.shape:
        raise OutputError(f"the ONNX file gives an output of {tuple(found.shape)} where the student gives one of "
                          f"{tuple(wanted.shape)}, so that it was made for one size alone; nothing was written. Try "
                          "another --opset, or use the student in torch")
    return (wanted - found).abs()


def _batches(encoded: EncodedSplit) -> Iterator[list[int]]:
    """The shortest row, the longest, both, and a few and many of all lengths; fewer where rows are few."""
    order = encoded.lengths.argsort(kind="stable").tolist()
    yield order[:1]
    if len(order) > 1:
        yield order[-1:]
        yield [order[0], order[-1]]
    for size in (_FEW, _MANY):
        if len(order) >= size:
            yield [order[place * (len(order) - 1) // (size - 1)] for place in range(size)]
