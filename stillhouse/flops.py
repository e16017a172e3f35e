"""FLOPs per token of a model and of each of its modules, without computing anything.

A copy of the model, whose tensors have shapes but no memory, reads one row, and the matrix products on the way are
counted. Everything else (normalisation, activations, softmax, look-ups, additions) is left out: in a transformer it is
a few per cent.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.errors import ConfigError, DataError, first_line

__all__ = ["FlopCount", "count_flops", "longest_row"]

_TALKATIVE = ("torch._subclasses.fake_tensor", "transformers")


@dataclass(frozen=True)
class FlopCount:
    """What one token costs; a multiplication and an addition are two FLOPs."""

    per_token: Mapping[str, float] = field(default_factory=dict)
    """By the dotted name of each module, "" for the model; a module with two names has one, the first. Empty: unknown.

    A list of modules, which is never called itself, has the sum of its modules.
    """
    sequence_length: int | None = None
    """Tokens in the row that was read; None: unknown."""
    unknown_because: str = ""
    """Why nothing is known."""


def count_flops(model: nn.Module, *, sequence_length: int = 128, inputs: Any = None) -> FlopCount:
    """FLOPs per token of a forward pass: those of one row of ``sequence_length`` tokens, divided by that length.

    Counted are the matrix products (linear layers, attention scores and sums, convolutions), with attention over the
    whole row even where a causal mask would let half of it be skipped. Attention costs more per token the longer the
    row is, so numbers compare only at the same length. A layer that is run twice counts twice, one that is not run
    (or whose work is done by its parent) not at all.

    A transformers model that reads ``input_ids`` is fed one row of them; an encoder-decoder as many decoder tokens
    besides, so its number is for one token read and one written. Any other model needs ``inputs``, a tensor, or a
    tuple or mapping of the arguments of ``forward``: a token then is one id of ``input_ids`` (of the first tensor, if
    there is none), or one vector if that tensor is floating point; ``sequence_length`` is not used.

    The model is not changed, nor are its hooks called. What cannot be found is unknown, with the reason, and never
    guessed: a model whose inputs are not known, whose forward depends on values, or whose weights are packed integers.
    Raises `ConfigError` for a length below 1, `DataError` for ``inputs`` without a tensor or that the model cannot
    read.

    >>> count_flops(nn.Linear(4, 3), inputs=torch.zeros(2, 5, 4)).per_token[""]
    24.0
    """
    if sequence_length < 1:
        raise ConfigError(f"sequence_length={sequence_length}: give the tokens of a row, 1 or more")
    fed = _known_inputs(model, sequence_length) if inputs is None else _as_arguments(inputs)
    if fed is None:
        return FlopCount(unknown_because=f"which inputs a {type(model).__name__} reads is not known; give inputs=")
    tokens, row_tokens = _num_tokens(fed)
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        return FlopCount(unknown_because="its weights are packed integers")
    try:
        spent = _spent(model, fed)
    except Exception as error:  # whatever somebody's forward does with a tensor that has no values
        reason = f"{type(error).__name__}: {first_line(error)}"
        if inputs is not None:
            raise DataError(f"a {type(model).__name__} cannot be run on the shapes of these inputs: {reason}. Give "
                            "what its forward takes, or no inputs for a table without FLOPs") from error
        return FlopCount(unknown_because=f"a {type(model).__name__} cannot be run on shapes alone: {reason}")
    return FlopCount({name: flops / tokens for name, flops in spent.items()}, row_tokens)


def longest_row(model: nn.Module) -> int | None:
    """The most tokens in a row that a transformers model has positions for; None: no limit, or not known."""
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


_Arguments = Mapping[str, Any] | Sequence[Any]


def _as_arguments(inputs: Any) -> _Arguments:
    return inputs if isinstance(inputs, Mapping | tuple | list) else (inputs,)


def _known_inputs(model: nn.Module, length: int) -> _Arguments | None:
    from transformers import PreTrainedModel  # seconds to load, and not needed where inputs are given

    if not isinstance(model, PreTrainedModel) or model.main_input_name != "input_ids":
        return None
    row = torch.zeros(1, length, dtype=torch.long, device="meta")
    fed = {"input_ids": row}
    if model.config.is_encoder_decoder and "decoder_input_ids" in inspect.signature(model.forward).parameters:
        fed["decoder_input_ids"] = row
    return fed


def _num_tokens(inputs: _Arguments) -> tuple[int, int]:
    """The tokens in all rows, and in one."""
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    tensors = [value for value in pytree.tree_leaves([ids, inputs]) if isinstance(value, Tensor)]
    if not tensors or not tensors[0].numel():
        raise DataError(f"inputs={type(inputs).__name__} without a tensor that has values; give what forward takes, as "
                        "in {'input_ids': torch.zeros(1, 128, dtype=torch.long)}")
    shape = tensors[0].shape[:-1] if tensors[0].is_floating_point() else tensors[0].shape
    return math.prod(shape), math.prod(shape[1:])


def _spent(model: nn.Module, inputs: _Arguments) -> dict[str, int]:
    """FLOPs of one forward pass by module."""
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    with _quiet(), fake_mode:
        shapes = _without_memory(model)
        inputs = pytree.tree_map_only(Tensor, _hollow, inputs)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mv: _matrix_vector_flops})
    with _quiet(), torch.no_grad():
        replica = copy.deepcopy(model, shapes).eval()
        _choose_countable_kernels(replica)
        meter = _Meter(replica, counter)
        with fake_mode, counter:
            if isinstance(inputs, Mapping):
                replica(**inputs)
            else:
                replica(*inputs)
    return meter.totals()


class _Meter:
    """What the counter moves while each module is called."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self._model, self._counter = model, counter
        self._starts: dict[str, list[int]] = defaultdict(list)
        self._spent: dict[str, int] = {}
        for name, module in model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(partial(self._leave, name))

    def totals(self) -> dict[str, int]:
        """By name; modules that were not called have the sum of what is below them."""
        totals: dict[str, int] = {}
        for name, module in reversed(list(self._model.named_modules())):  # children before their parents
            below = (totals.get(f"{name}.{child}" if name else child, 0) for child, _ in module.named_children())
            totals[name] = self._spent[name] if name in self._spent else sum(below)
        return totals

    def _enter(self, name: str, *_: Any) -> None:
        self._starts[name].append(self._counter.get_total_flops())

    def _leave(self, name: str, *_: Any) -> None:
        spent = self._counter.get_total_flops() - self._starts[name].pop()
        self._spent[name] = self._spent.get(name, 0) + spent


def _without_memory(model: nn.Module) -> dict[int, Any]:
    """What a deep copy takes instead of the model's tensors and hooks, by their identity."""
    instead: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                instead[id(value)] = _hollow(value)
            elif name.endswith("_hooks") and isinstance(value, dict):
                instead[id(value)] = type(value)()
    for buffer in model.buffers():
        instead[id(buffer)] = _hollow(buffer)
    for parameter in model.parameters():
        instead[id(parameter)] = nn.Parameter(_hollow(parameter), requires_grad=False)
    return instead


def _hollow(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")


def _choose_countable_kernels(replica: nn.Module) -> None:
    """Attention and experts as plain matrix products, whatever kernels the model would use."""
    from transformers import PreTrainedModel

    for module in replica.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")
            module.set_experts_implementation("batched_mm")


def _matrix_vector_flops(matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


@contextmanager
def _quiet() -> Iterator[None]:
    """No fused kernels that the counter does not know, no warnings, no logs; everything restored afterwards."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
