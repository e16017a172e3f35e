"""What becomes an ONNX graph: families of transformers, recurrent and convolutional students; and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which needs onnx

import onnx
import torch
from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedModel

from stillhouse.errors import PlanError
from stillhouse.export.graphs import write_graph
from stillhouse.export.sessions import OnnxModel
from stillhouse.students.convolutional import ConvolutionalConfig, ConvolutionalForSequenceClassification
from stillhouse.students.recurrent import (
    RecurrentConfig,
    RecurrentForSequenceClassification,
    RecurrentForTokenClassification,
)
from stillhouse.tasks import TextClassification, TokenClassification

SIZES = {"vocab_size": 60, "num_labels": 3}
TEXTS = TextClassification(TextClassification.data(train="", label_names=["x", "y", "z"]))
TAGS = TokenClassification(TokenClassification.data(train="", label_names=["x", "y", "z"]))


def recurrent(cell: str) -> dict[str, Any]:
    return {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 2, "cell": cell, **SIZES}


MODELS = {
    "DistilBERT": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(dim=16, hidden_dim=16, n_layers=1, n_heads=2, max_position_embeddings=32, **SIZES)),
    "BiGRU": lambda: RecurrentForSequenceClassification(RecurrentConfig(**recurrent("gru"))),
    "BiLSTM": lambda: RecurrentForTokenClassification(RecurrentConfig(**recurrent("lstm"))),
    "CNN": lambda: ConvolutionalForSequenceClassification(ConvolutionalConfig(
        embedding_size=8, hidden_size=12, num_hidden_layers=2, **SIZES)),
}


def batch(rows: int, length: int, side: str = "right") -> dict[str, Tensor]:
    """Rows of 1 to ``length`` words."""
    draw = torch.Generator().manual_seed(rows * length)
    kept = torch.arange(length) < torch.linspace(length, 1, rows).round().unsqueeze(1)
    mask = (kept if side == "right" else kept.flip(1)).long()
    ids = torch.randint(5, 60, (rows, length), generator=draw)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def opset_of(path: Path) -> int:
    """The version of the operators in a file."""
    versions: list[int] = [one.version for one in onnx.load(path).opset_import if not one.domain]
    return versions[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_of_the_asked_version_answers_as_its_model_whatever_padding_holds(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel = MODELS[name]().eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(std=0.4)
    task: Any = TAGS if name == "BiLSTM" else TEXTS
    before = {key: value.clone() for key, value in model.state_dict().items()}
    opset = 18 if name == "CNN" else None
    write_graph(model, task, batch(1, 3), tmp_path / "model.onnx", opset)
    assert opset in (None, opset_of(tmp_path / "model.onnx"))
    graph = OnnxModel(tmp_path / "model.onnx", 1)
    assert graph.inputs == ("input_ids", "attention_mask")  # these models read no token types
    sides = ["right"] if name == "DistilBERT" else ["right", "left"]
    for rows, length, side in [(rows, length, side) for rows, length in ((1, 1), (1, 11), (4, 6), (6, 30))
                               for side in sides]:
        given = batch(rows, length, side)
        with torch.no_grad():
            wanted = model(given["input_ids"], given["attention_mask"]).logits
        found = graph.of(given)["logits"]
        assert wanted.std() > 0.1
        kept = given["attention_mask"].bool() if task is TAGS else torch.ones(rows, dtype=torch.bool)
        torch.testing.assert_close(found[kept], wanted[kept], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training


class Undecided(nn.Module):
    """A model whose answer depends on values in a way that no graph can show."""

    def forward(self, input_ids: Tensor, return_dict: bool = True) -> dict[str, Tensor]:
        rows = [row[: int(row.max())].float().mean() for row in input_ids]
        return {"logits": torch.stack(rows)}


def test_a_model_that_cannot_be_followed_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"(?s)Undecided cannot be written as ONNX: .*use it in torch, or distil"):
        write_graph(Undecided(), TEXTS, batch(2, 5), tmp_path / "model.onnx", None)
    assert not list(tmp_path.iterdir())
