"""How the conformance suite of tasks looks at models, batches and answers."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from stillhouse.adaptors.base import Signals
from stillhouse.errors import PlanError
from stillhouse.losses import Loss
from stillhouse.tasks import Examples, Task
from stillhouse.types import Key, logits_mask_name


def hard_loss(task: Task[Any]) -> dict[str, Loss]:
    """The loss with labels, by name; none where the data has no labels."""
    try:
        return {"hard": task.hard_loss()}
    except PlanError:  # data without labels
        return {}


def run(task: Task[Any], model: nn.Module, inputs: Mapping[str, Any], keys: frozenset[Key]) -> Signals:
    """What the model says to a batch; the masks are declared as they turn out."""
    signals = task.adaptor().run(model, inputs, keys, {})
    declared = task.adaptor().masks(inputs)
    assert set(declared) == set(signals.masks), "masks are declared as they turn out"
    assert all(mask.equal(signals.masks[name]) for name, mask in declared.items())
    return signals


def kept(key: Key, signals: Signals, row: int) -> Tensor:
    """One row's numbers where they mean something, in one dimension."""
    value, masks = signals.features[key], signals.masks
    name = logits_mask_name(key.index) if key.kind == "logits" and isinstance(key.index, int) else "inputs"
    mask = masks[name][row].ne(0)
    found = value[row]
    if found.dim() > 1 and len(found) == len(mask):
        found = found[mask]
    return found[found.isfinite()].detach()


def rows_of(examples: Examples) -> list[str]:
    """Each example as a text, to be compared."""
    return [json.dumps({name: values[row] for name, values in examples.columns.items()})
            for row in range(len(examples))]


def require_alike(found: Any, expected: Any, tolerance: float) -> None:
    """Raise AssertionError unless two plain values are equal, but for numbers that were summed in another order.

    Rounding to four digits may make one of the last digit of such a difference.
    """
    if isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance, rel=2e-3)
    elif isinstance(expected, dict):
        assert set(found) == set(expected)
        for key, value in expected.items():
            require_alike(found[key], value, tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            require_alike(ours, theirs, tolerance)
    else:
        assert found == expected


def structure(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that stand for no word."""
    return [number for number in tokenizer.all_special_ids
            if number not in (tokenizer.unk_token_id, tokenizer.mask_token_id)]


def random_states() -> tuple[Any, ...]:
    """The states of all global random generators."""
    ours: Any = np.random.get_state()
    return bytes(torch.get_rng_state().tolist()), random.getstate(), ours[1].tobytes(), ours[2]


def changed(model: nn.Module) -> nn.Module:
    """A model with other weights, for a teacher."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return other
