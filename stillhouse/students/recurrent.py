"""Recurrent students: GRU or LSTM layers that read the words in both directions."""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# The base classes of transformers are untyped in places.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init

from stillhouse.errors import unknown_name
from stillhouse.students.word_models import (
    WordConfig,
    WordModel,
    WordModelForQuestionAnswering,
    WordModelForSequenceClassification,
    WordModelForTokenClassification,
)

Direction = TypeVar("Direction", bound=nn.Module)

_CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


@strict
class RecurrentConfig(WordConfig):
    """A bidirectional GRU or LSTM; each direction is half of ``hidden_size`` wide, which must be even."""

    model_type = "stillhouse_recurrent"

    cell: Literal["gru", "lstm"] = "gru"

    def validate_directions(self) -> None:
        """Raise ``ValueError`` for an unknown cell, or a width that is no two directions (called by transformers)."""
        if self.cell not in _CELLS:
            raise ValueError(unknown_name("cell", self.cell, _CELLS))
        if isinstance(self.hidden_size, int) and self.hidden_size % 2:
            raise ValueError(f"hidden_size is {self.hidden_size}: it is two directions side by side, so give an even "
                             "number")


class BidirectionalLayer(nn.Module):
    """Reads the words of each row forwards and backwards, and puts what it read side by side.

    Each direction first moves a row's words to the front, in the order in which it reads them, so that nothing it has
    read is padding. Unlike packed sequences this waits for no lengths from the accelerator, and takes a row without
    any words.
    """

    def __init__(self, cell: str, width: int) -> None:
        super().__init__()
        self.forwards = _CELLS[cell](width, width // 2, batch_first=True)
        self.backwards = _CELLS[cell](width, width // 2, batch_first=True)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, H) from states (B, T, H) and a mask (B, T), True where words are."""
        return both_ways(_read, self.forwards, self.backwards, states, mask)


class RecurrentModel(WordModel):
    """The recurrent student without a head."""

    config_class = RecurrentConfig

    def new_layer(self, config: WordConfig) -> nn.Module:
        return BidirectionalLayer(cast(RecurrentConfig, config).cell, config.hidden_size)

    def _init_weights(self, module: Any) -> None:
        """Draw one module's weights; transformers itself knows no GRU, and would not let an LSTM remember at first."""
        if not isinstance(module, (nn.GRU, nn.LSTM)):
            super()._init_weights(module)
            return
        for name, parameter in module.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(parameter.shape[0] // module.hidden_size):
                    init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                init.xavier_uniform_(parameter)
            else:
                init.zeros_(parameter)


class RecurrentForSequenceClassification(WordModelForSequenceClassification):
    """The recurrent student of a text classifier."""

    config_class = RecurrentConfig
    encoder_class = RecurrentModel


class RecurrentForTokenClassification(WordModelForTokenClassification):
    """The recurrent student of a tagger."""

    config_class = RecurrentConfig
    encoder_class = RecurrentModel


class RecurrentForQuestionAnswering(WordModelForQuestionAnswering):
    """The recurrent student of a reader."""

    config_class = RecurrentConfig
    encoder_class = RecurrentModel


def both_ways(read: Callable[[Direction, Tensor, Tensor], Tensor], forwards: Direction, backwards: Direction,
              states: Tensor, mask: Tensor) -> Tensor:
    """What two directions say side by side (B, T, H), of states (B, T, H) and a mask (B, T), True where words are.

    ``read`` asks a direction about states whose positions it reads in the order of their rank (B, T).
    """
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    behind = positions + mask.shape[1]
    there = read(forwards, states, torch.where(mask, positions, behind))
    back = read(backwards, states, torch.where(mask, -positions, behind))
    return torch.cat([there, back], dim=-1)


def _read(direction: nn.Module, states: Tensor, rank: Tensor) -> Tensor:
    """What one direction says at each position when it reads the positions in the order of their rank (B, T)."""
    order = rank.argsort(dim=1)
    ordered = torch.take_along_dim(states, order.unsqueeze(-1), dim=1)
    # Whatever type it is asked for, autocast on CUDA gives such layers fp16, whose gradients vanish without a scaler.
    with torch.autocast(states.device.type, enabled=False):
        read, _ = direction(ordered.to(next(direction.parameters()).dtype))
    return torch.take_along_dim(read, order.argsort(dim=1).unsqueeze(-1), dim=1)
