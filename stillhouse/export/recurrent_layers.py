"""Recurrent layers as ONNX has them.

Torch's exporter unrolls a GRU or LSTM over the example's length, and fixes sizes where it meets ``take_along_dim``.
ONNX has both as operators of its own, whose gates stand in another order; a model that is to be exported gets these.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from stillhouse.students.recurrent import BidirectionalLayer, both_ways

_GATES = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
"""Where each gate of the ONNX operator stands among torch's: update, reset, new; input, output, forget, cell."""

Model = TypeVar("Model", bound=nn.Module)


def exportable(model: Model) -> Model:
    """The model itself, or a copy with exportable layers in the place of recurrent ones. The copy cannot be run."""
    if not any(isinstance(module, BidirectionalLayer) for module in model.modules()):
        return model
    copied = copy.deepcopy(model)
    for name, module in list(copied.named_modules()):
        if isinstance(module, BidirectionalLayer):
            copied.set_submodule(name, _BidirectionalOperator(module))
    return copied


@final
class _BidirectionalOperator(nn.Module):
    """A `BidirectionalLayer` of ONNX operators."""

    def __init__(self, layer: BidirectionalLayer) -> None:
        super().__init__()
        self.forwards, self.backwards = _Operator(layer.forwards), _Operator(layer.backwards)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, H) from states (B, T, H) and a mask (B, T), True where words are."""
        return both_ways(_read, self.forwards, self.backwards, states, mask)


@final
class _Operator(nn.Module):
    """One direction: the ONNX operator GRU or LSTM with the weights of torch's layer."""

    def __init__(self, layer: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        self.kind, self.width = type(layer).__name__, layer.hidden_size
        self.attributes: dict[str, Any] = {"hidden_size": self.width}
        if self.kind == "GRU":
            self.attributes["linear_before_reset"] = 1  # torch resets what the recurrent weights made
        weights = {name: self._ordered(values) for name, values in layer.named_parameters()}
        self.weight_ih, self.weight_hh = nn.Parameter(weights["weight_ih_l0"]), nn.Parameter(weights["weight_hh_l0"])
        self.bias = nn.Parameter(torch.cat([weights["bias_ih_l0"], weights["bias_hh_l0"]], dim=1))

    def _ordered(self, weights: Tensor) -> Tensor:
        """(1, gates * H, ...): torch's weights with the gates in the operator's order, for its one direction."""
        gates = weights.detach().chunk(len(_GATES[self.kind]))
        return torch.cat([gates[number] for number in _GATES[self.kind]]).unsqueeze(0)

    def forward(self, states_BTH: Tensor) -> Tensor:
        """What it has read at each position, (B, T, width)."""
        states_TBH = states_BTH.transpose(0, 1)
        length, rows = states_TBH.shape[:2]
        read_T1BH: Tensor = torch.onnx.ops.symbolic(
            self.kind, (states_TBH, self.weight_ih, self.weight_hh, self.bias), self.attributes,
            dtype=states_BTH.dtype, shape=(length, 1, rows, self.width))
        return read_T1BH.squeeze(1).transpose(0, 1)


def _read(direction: _Operator, states: Tensor, rank: Tensor) -> Tensor:
    """As `stillhouse.students.recurrent` reads, written with ``gather``."""
    order = rank.argsort(dim=1)
    read = direction(_moved(states, order))
    return _moved(read, order.argsort(dim=1))


def _moved(states_BTH: Tensor, places_BT: Tensor) -> Tensor:
    return states_BTH.gather(1, places_BT.unsqueeze(-1).expand_as(states_BTH))
