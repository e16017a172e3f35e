"""Forwards of a teacher that end with the last layer that is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from stillhouse.adaptors.base import AdaptorAround, Signals
from stillhouse.adaptors.layers import KNOWN_FAMILIES, layer_lists
from stillhouse.needs import indices
from stillhouse.types import Key


class StoppingEarly(AdaptorAround):
    """Another adaptor, whose forward stops as soon as nothing that follows is asked for; the values are the same.

    It does so where hidden states alone are asked for, the last one not among them, of a model whose family is known,
    and where the inner adaptor declares its masks. Everything else, the fingerprint too, is the inner adaptor's.
    """

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        if not self.declares_masks:
            return self.inner.run(model, inputs, keys, extra)
        with _stopping(model, keys) as found:
            try:
                return self.inner.run(model, inputs, keys, extra)
            except _Enough:
                return Signals(found, self.inner.masks(inputs))

    def check(self, model: nn.Module, keys: frozenset[Key], *, is_trained: bool = False) -> None:
        self.inner.check(model, keys, is_trained=is_trained)

    def width(self, model: nn.Module, key: Key) -> int | None:
        return self.inner.width(model, key)


class _Enough(Exception):
    """All that is asked for is there."""


@contextmanager
def _stopping(model: nn.Module, keys: frozenset[Key]) -> Iterator[dict[Key, Tensor]]:
    """Inside, a forward fills the dictionary and then raises `_Enough`, if it can be cut short at all."""
    found: dict[Key, Tensor] = {}
    with ExitStack() as hooks:
        for key, layer in _layers_entered(model, keys).items():
            handle = layer.register_forward_pre_hook(_keep(key, found, len(keys)), with_kwargs=True)
            hooks.callback(handle.remove)
        yield found


def _keep(key: Key, found: dict[Key, Tensor], enough: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        found[key] = args[0] if args else kwargs["hidden_states"]
        if len(found) == enough:
            raise _Enough

    return keep


def _layers_entered(model: nn.Module, keys: frozenset[Key]) -> dict[Key, nn.Module]:
    """For each hidden state the layer that it goes into; empty if the forward must go on to its end."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in KNOWN_FAMILIES:
        return {}
    depth = config.num_hidden_layers
    numbers = {key: number % (depth + 1) for number in indices(keys, "hidden")
               if (key := Key("hidden", number)) in keys}
    if len(numbers) != len(keys) or depth in numbers.values():
        return {}
    paths = layer_lists(model, depth)
    if len(paths) != 1:
        return {}
    layers: Any = model.get_submodule(paths[0])
    return {key: layers[number] for key, number in numbers.items()}
