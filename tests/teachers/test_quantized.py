"""Promises of teachers whose encoder computes in 8-bit whole numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from stillhouse.adaptors import Adaptor, HuggingFaceAdaptor, StoppingEarly
from stillhouse.errors import ConfigError, PlanError
from stillhouse.flops import count_flops
from stillhouse.model_size import count_parameters, size_bytes
from stillhouse.teachers import LiveTeacher, quantized
from stillhouse.teachers.quantized import Int8Linear, int8_dynamic, require_int8_products
from stillhouse.types import LOGITS, Batch, Features, Key

HIDDEN = frozenset({Key("hidden", 0), Key("hidden", 1), Key("hidden", 2)})


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, num_labels=5,
        max_position_embeddings=32, initializer_range=0.2)).eval()


@pytest.fixture
def batch() -> Batch:
    """Rows of 4, 9 and 16 tokens."""
    ids = torch.randint(1, 50, (3, 16), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(16) < torch.tensor([[4], [9], [16]])).long()
    return as_batch(ids * mask, mask)


def as_batch(ids: Tensor, mask: Tensor) -> Batch:
    inputs = {"input_ids": ids, "attention_mask": mask}
    return Batch(inputs, inputs)


def answers(model: nn.Module, batch: Batch, keys: frozenset[Key], adaptor: Adaptor | None = None) -> Features:
    return LiveTeacher(model, adaptor or HuggingFaceAdaptor("rows")).signals(batch, keys)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to what is expected."""
    return float((found - expected).norm() / expected.norm())


def layer(inputs: int = 48, outputs: int = 32, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(inputs, outputs, bias=bias)


@torch.no_grad()
def test_a_layer_gives_the_products_of_rounded_numbers() -> None:
    linear, inputs = layer(), torch.randn(6, 48)
    weights = []
    for row in linear.weight.double():
        scale = row.abs().max() / 127
        weights.append((row / scale).round() * scale)
    expected = []
    for token in inputs.double():
        step = (token.max() - token.min()) / 127
        rounded = ((token - token.min()) / step).round() * step + token.min()
        expected.append(torch.stack([row @ rounded for row in weights]) + linear.bias.double())
    torch.testing.assert_close(Int8Linear(linear)(inputs).double(), torch.stack(expected), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_near_the_one_that_it_was_made_of(bias: bool) -> None:
    linear, inputs = layer(bias=bias), torch.randn(2, 3, 48)
    made = Int8Linear(linear)
    assert made(inputs).shape == (2, 3, 32)
    assert 0 < distance(made(inputs), linear(inputs)) < 0.02
    assert torch.equal(copy.deepcopy(made)(inputs), made(inputs))
    same = torch.full((2, 48), 0.7)  # there is no step between values that are all the same
    torch.testing.assert_close(made(same), linear(same), rtol=0.02, atol=0.02)
    assert made(torch.full((1, 48), torch.nan)).isnan().all()
    assert made(torch.zeros(0, 48)).shape == (0, 32)


@torch.no_grad()
def test_a_layer_gives_a_token_the_same_whatever_stands_beside_it() -> None:
    made, inputs = Int8Linear(layer()), torch.randn(5, 7, 48)
    beside = inputs.clone()
    beside[1:] *= 1000
    beside[0, 3:] *= 1000
    assert torch.equal(made(beside)[0, :3], made(inputs[:1, :3])[0])


def test_the_largest_numbers_do_not_overflow() -> None:
    with torch.no_grad():
        linear = nn.Linear(512, 16, bias=False)
        linear.weight.fill_(1.0)
        inputs = torch.full((4, 512), 1.0)
        inputs[:, 0] = 0.0  # so that all others are the highest
        torch.testing.assert_close(Int8Linear(linear)(inputs), torch.full((4, 16), 511.0))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_type_of_the_input_is_that_of_the_output(precision: torch.dtype) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert Int8Linear(layer())(torch.randn(2, 48, dtype=precision)).dtype is precision


def test_a_processor_with_wrong_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(self: Any, whole: Tensor) -> Tensor:
        return torch.full((32, 32), float(2**15 - 1))

    def missing(self: Any, whole: Tensor) -> Tensor:
        raise NotImplementedError("no kernel\nand much more")

    require_int8_products()
    for products, message in ((saturating, "overflows in 8-bit products"), (missing, r"\(no kernel\); leave")):
        monkeypatch.setattr(quantized._Packed, "products", products)
        with pytest.raises(ConfigError, match=message):
            int8_dynamic(nn.Linear(4, 4))


def test_the_model_stays_as_it_is_and_so_do_its_head_and_embeddings(
    model: BertForSequenceClassification, batch: Batch
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smaller = int8_dynamic(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.bert.encoder.layer[0].attention.self.query) is nn.Linear
    for name, module in smaller.bert.encoder.named_modules():
        assert type(module) is not nn.Linear, name
    assert torch.equal(smaller.classifier.weight, model.classifier.weight)
    assert type(smaller.classifier) is nn.Linear
    assert count_parameters(smaller) == count_parameters(model)
    assert count_flops(smaller).unknown_because == "its weights are packed integers"
    whole = sum(module.weight.numel() for module in smaller.modules() if isinstance(module, Int8Linear))
    rows = sum(module.out_features for module in smaller.modules() if isinstance(module, Int8Linear))
    assert size_bytes(model) - size_bytes(smaller) == 3 * whole - 4 * rows  # a scale for each output came instead
    exact, found = (answers(each, batch, HIDDEN | {LOGITS}) for each in (model, smaller))
    assert torch.equal(exact[Key("hidden", 0)], found[Key("hidden", 0)])
    assert 0 < distance(found[LOGITS], exact[LOGITS]) < 0.1


def test_a_row_is_answered_alone_as_in_a_padded_batch_within_the_error_of_rounding(
    model: BertForSequenceClassification, batch: Batch
) -> None:
    smaller = int8_dynamic(model)
    together = answers(smaller, batch, frozenset({LOGITS}))[LOGITS]
    error = distance(together, answers(model, batch, frozenset({LOGITS}))[LOGITS])
    for row, length in enumerate((4, 9, 16)):
        ids = batch.teacher["input_ids"][row: row + 1, :length]
        alone = answers(smaller, as_batch(ids, torch.ones_like(ids)), frozenset({LOGITS}))[LOGITS]
        assert distance(alone, together[row: row + 1]) < max(error, 0.02)


def test_a_forward_may_stop_early_and_run_under_autocast(model: BertForSequenceClassification, batch: Batch) -> None:
    smaller = int8_dynamic(model)
    calls: list[None] = []
    smaller.bert.encoder.layer[2].register_forward_hook(lambda *_: calls.append(None))
    whole = answers(smaller, batch, HIDDEN)
    assert calls == [None]
    short = answers(smaller, batch, HIDDEN, StoppingEarly(HuggingFaceAdaptor("rows")))
    assert calls == [None]
    assert all(torch.equal(short[key], whole[key]) for key in HIDDEN)
    under_autocast = LiveTeacher(smaller, HuggingFaceAdaptor("rows"), torch.bfloat16)
    halves = under_autocast.signals(batch, frozenset({LOGITS}))[LOGITS]
    exact = answers(model, batch, frozenset({LOGITS}))[LOGITS]
    assert distance(halves.float(), exact) < 0.1


def test_its_answers_are_kept_apart_from_those_of_the_model(model: BertForSequenceClassification) -> None:
    def name(each: nn.Module, identity: str | None = None) -> str | None:
        return LiveTeacher(each, HuggingFaceAdaptor("rows"), identity=identity).fingerprint

    assert name(int8_dynamic(model)) == name(int8_dynamic(model)) != name(model)
    assert name(model, "one") != name(model, "other")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight.mul_(1.5)  # the whole numbers stay, the scales do not
    assert name(int8_dynamic(other)) != name(int8_dynamic(model))


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Sequential has no layers of torch\.nn\.Linear"):
        int8_dynamic(nn.Sequential(nn.Embedding(4, 4), nn.MultiheadAttention(4, 2)))
