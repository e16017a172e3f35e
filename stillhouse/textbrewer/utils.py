"""Small tools under their old import path: the parameter table, endless loaders, an initializer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import nn

from stillhouse.errors import DataError
from stillhouse.model_size import ParameterNode, parameter_text, parameter_tree

__all__ = ["cycle", "display_parameters", "initializer_builder"]

T = TypeVar("T")


def display_parameters(
    model_or_state_dict: nn.Module | Mapping[str, Any], max_level: int | None = None
) -> tuple[str, ParameterNode]:
    """The table of parameters as text, down to ``max_level``, and the whole tree behind it.

    See `stillhouse.model_size.parameter_tree` for what counts and `parameter_text` for the table and the errors.
    """
    root = parameter_tree(model_or_state_dict)
    return parameter_text(root, max_level), root


def cycle(iterable: Iterable[T]) -> Iterator[T]:
    """The elements over and over; every pass iterates anew, so that a shuffling loader shuffles again.

    Raises `DataError` when a pass gives nothing (an empty loader, or a generator that is used up).
    """
    while True:
        is_empty = True
        for element in iterable:
            is_empty = False
            yield element
        if is_empty:
            raise DataError("nothing left to cycle through: give a loader or a list that is not empty and that can be "
                            "iterated more than once")


def initializer_builder(std: float) -> Callable[[nn.Module], None]:
    """A function for ``model.apply`` that draws linear weights from N(0, ``std``^2).

    Biases of linear layers become 0; layer norms become the identity (weight 1, bias 0). Other modules stay.
    """

    def initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, nn.LayerNorm):
            if module.weight is not None:
                nn.init.ones_(module.weight)
        else:
            return
        if module.bias is not None:
            nn.init.zeros_(module.bias)

    return initialize
