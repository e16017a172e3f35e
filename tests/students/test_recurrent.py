"""Promises of recurrent layers, against torch's own bidirectional ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.testing import assert_close

from stillhouse.students.recurrent import BidirectionalLayer, RecurrentConfig, RecurrentModel

KINDS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


@pytest.mark.parametrize("cell", KINDS)
def test_a_layer_is_torchs_bidirectional_one_over_packed_rows(cell: str) -> None:
    torch.manual_seed(0)
    layer = BidirectionalLayer(cell, 6).double()
    oracle = KINDS[cell](6, 3, batch_first=True, bidirectional=True).double()
    weights = dict(layer.forwards.state_dict())
    weights |= {f"{name}_reverse": value for name, value in layer.backwards.state_dict().items()}
    oracle.load_state_dict(weights)
    lengths = torch.tensor([4, 7, 1])
    states, mask = torch.randn(3, 7, 6).double(), torch.arange(7) < lengths[:, None]
    packed = nn.utils.rnn.pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(oracle(packed)[0], batch_first=True)
    assert_close(layer(states, mask)[mask], expected[mask], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", KINDS)
def test_new_weights_are_orthogonal_in_each_gate_and_without_bias(cell: str) -> None:
    model = RecurrentModel(RecurrentConfig(vocab_size=9, embedding_size=4, hidden_size=8, cell=cell))
    layer: Any = model.layers[0]
    for direction in (layer.forwards, layer.backwards):
        for gate in direction.weight_hh_l0.split(4):
            assert_close(gate @ gate.T, torch.eye(4), rtol=0, atol=1e-5)
        assert not direction.bias_ih_l0.any() and not direction.bias_hh_l0.any()
    assert not torch.equal(layer.forwards.weight_hh_l0, layer.backwards.weight_hh_l0)


def test_impossible_cells_and_widths_are_refused() -> None:
    with pytest.raises(StrictDataclassError, match="unknown cell 'gro': did you mean 'gru'"):
        RecurrentConfig(cell="gro")  # type: ignore[arg-type]
    with pytest.raises(StrictDataclassError, match=r"hidden_size is 7: it is two directions.*give an even number"):
        RecurrentConfig(hidden_size=7)
