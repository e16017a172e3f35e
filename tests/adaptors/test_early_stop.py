"""Promises of forwards that end early: nothing but the time they take is different."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.adaptors import FunctionAdaptor, HuggingFaceAdaptor, ModuleOutputs, StoppingEarly
from stillhouse.adaptors.layers import KNOWN_FAMILIES, layer_lists
from stillhouse.teachers import LiveTeacher
from stillhouse.types import LOGITS, Batch, Key, module_key
from tests.students.test_families import DEPTH, TEACHERS, make_teacher

ROWS = torch.arange(24).reshape(2, 12) + 5
ROWS[1, 7:] = 1
INPUTS = {"input_ids": ROWS, "attention_mask": (ROWS != 1).long()}
SEQUENCES = "ForSequenceClassification"
VARIANTS: list[tuple[str, dict[str, Any]]] = [(family, {}) for family in KNOWN_FAMILIES]
VARIANTS.append(("deberta-v2", {"conv_kernel_size": 3}))  # the first layer's output goes through one more module


def hidden(*layers: int) -> frozenset[Key]:
    return frozenset(Key("hidden", layer) for layer in layers)


class Entered:
    """Which layers, by number, and which head a forward has run."""

    def __init__(self, model: nn.Module, family: str) -> None:
        self.layers: list[int] = []
        self.head: list[bool] = []
        stack: Any = model.get_submodule(TEACHERS[family][1])
        for number, layer in enumerate(stack):
            layer.register_forward_hook(lambda *_, number=number: self.layers.append(number))
        model.get_submodule("classifier").register_forward_hook(lambda *_: self.head.append(True))


def every_hidden_state(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        states: tuple[Tensor, ...] = model(**inputs, output_hidden_states=True).hidden_states
    return states


@pytest.mark.parametrize(("family", "values"), VARIANTS)
@pytest.mark.parametrize("layers", [(0,), (1, 3), (2,), (-2, 0), (0, 1, 2, 3, 4), (-1,)])
def test_values_are_the_same_bit_for_bit(family: str, values: dict[str, Any], layers: tuple[int, ...]) -> None:
    model = make_teacher(family, SEQUENCES, **values)
    expected = every_hidden_state(model, INPUTS)
    entered = Entered(model, family)
    adaptor = StoppingEarly(ModuleOutputs(HuggingFaceAdaptor("rows")))
    found = LiveTeacher(model, adaptor).signals(Batch(INPUTS, INPUTS), hidden(*layers))
    assert found.keys() == hidden(*layers)
    for layer in layers:
        assert torch.equal(found[Key("hidden", layer)], expected[layer])
    highest = max(layer % (DEPTH + 1) for layer in layers)
    assert entered.layers == list(range(highest))
    assert bool(entered.head) == (highest == DEPTH)


def test_several_texts_a_row_are_the_same_too() -> None:
    model = make_teacher("bert", "ForMultipleChoice")
    inputs = {name: value.unsqueeze(0) for name, value in INPUTS.items()}
    expected = every_hidden_state(model, inputs)
    inner = HuggingFaceAdaptor("choices")
    entered = Entered(model, "bert")
    with torch.no_grad():
        found = StoppingEarly(inner).run(model, inputs, hidden(2), {})
    assert entered.layers == [0, 1]
    assert torch.equal(found.features[Key("hidden", 2)], expected[2])
    assert found.masks.keys() == inner.masks(inputs).keys()


@pytest.mark.parametrize("other", [LOGITS, module_key("bert.pooler")], ids=str)
def test_what_else_is_asked_for_needs_the_whole_forward(other: Key) -> None:
    model = make_teacher("bert", SEQUENCES)
    adaptor = StoppingEarly(ModuleOutputs(HuggingFaceAdaptor("rows")))
    entered = Entered(model, "bert")
    with torch.no_grad():
        found = adaptor.run(model, INPUTS, hidden(1) | {other}, {}).features
    assert found.keys() >= hidden(1) | {other} and entered.head


def test_unknown_families_and_opaque_masks_are_left_alone() -> None:
    model = make_teacher("bert", SEQUENCES)
    entered = Entered(model, "bert")
    opaque = FunctionAdaptor(lambda inputs, outputs: {"hidden": outputs.hidden_states})
    with torch.no_grad():
        StoppingEarly(opaque).run(model, INPUTS, hidden(1), {"output_hidden_states": True})
        assert entered.head == [True]
        model.config.model_type = "unheard-of"
        StoppingEarly(HuggingFaceAdaptor("rows")).run(model, INPUTS, hidden(1), {})
    assert entered.head == [True, True]


def test_nothing_is_left_behind() -> None:
    model = make_teacher("bert", SEQUENCES)
    adaptor = StoppingEarly(HuggingFaceAdaptor("rows"))
    with torch.no_grad():
        adaptor.run(model, INPUTS, hidden(1), {})
        whole = adaptor.run(model, INPUTS, hidden(1) | {LOGITS}, {})
        expected = model(**INPUTS).logits
    assert torch.equal(whole.features[LOGITS], expected)
    assert adaptor.fingerprint == adaptor.inner.fingerprint


def test_layers_are_found_whatever_is_inside_them() -> None:
    layer = nn.ModuleList([nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]) for _ in range(2)])
    assert layer_lists(nn.ModuleDict({"body": layer, "other": nn.ModuleList([nn.Linear(1, 1)])}), 2) == ["body"]
