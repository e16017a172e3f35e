"""What counts as the same answer: unmasked positions alone, NaN never, and the worst of all batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which needs onnx

import torch
from torch import Tensor, nn

from stillhouse.errors import OutputError
from stillhouse.export.graphs import Asked
from stillhouse.export.parity import Parity, compared, require_parity
from stillhouse.export.sessions import OnnxModel
from stillhouse.tasks import EncodedSplit, TokenClassification
from stillhouse.tasks.batching import compact

ROWS = EncodedSplit(compact({"input_ids": [[7] * length for length in (2, 9, 4)]}), {}, {})


class Model(nn.Module):
    """Two logits for each token."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, return_dict: bool = True) -> dict[str, Tensor]:
        return {"logits": torch.stack([input_ids, attention_mask], dim=-1).float()}


class Graph:
    """Answers as the model, but for ``off`` at some places."""

    def __init__(self, off: float, at_padding: bool, length: int | None = None) -> None:
        self.off, self.at_padding, self.length = off, at_padding, length

    def of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        right = Model()(batch["input_ids"], batch["attention_mask"])["logits"][:, : self.length]
        there = batch["attention_mask"].eq(0 if self.at_padding else 1)[:, : self.length]
        wrong = there & (there.shape[1] == 9 if self.length is None else True)
        return {"logits": torch.where(wrong.unsqueeze(-1), right + self.off, right)}


def parity(graph: Graph, *, per_token: bool = True) -> Parity:
    task = TokenClassification(TokenClassification.data(train="", label_names=["x", "y"]))
    return compared(Asked(Model(), task, ROWS.batch([0])), cast(OnnxModel, graph), ROWS, per_token=per_token)


def test_the_worst_of_all_batches_counts_and_padding_does_not() -> None:
    assert parity(Graph(0.25, at_padding=False)).max_difference == 0.25
    assert parity(Graph(0.25, at_padding=True)).max_difference == 0
    assert parity(Graph(0.25, at_padding=True), per_token=False).max_difference == 0.25
    assert parity(Graph(0.0, at_padding=False)).batches == ((1, 2), (1, 9), (2, 9))


def test_what_is_no_number_is_no_parity() -> None:
    found = parity(Graph(float("nan"), at_padding=False))
    with pytest.raises(OutputError, match="differ by up to nan"):
        require_parity(found)


def test_the_bound_itself_is_too_much() -> None:
    require_parity(Parity(0.00099, ()))
    with pytest.raises(OutputError, match=r"up to 0\.001"):
        require_parity(Parity(0.001, ()))


def test_an_output_of_another_size_is_told() -> None:
    with pytest.raises(OutputError, match=r"an output of \(1, 5, 2\) where the student gives one of \(1, 9, 2\)"):
        parity(Graph(0.0, at_padding=False, length=5))
