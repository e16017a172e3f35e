"""FLOPs per token, against counts by hand; and that counting leaves the model as it was."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from stillhouse import flops
from stillhouse.errors import ConfigError, DataError
from stillhouse.flops import count_flops, longest_row

WIDTH, INNER, WORDS, LAYERS, LENGTH = 16, 40, 50, 2, 8
SHAPE = {"vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
         "intermediate_size": INNER, "max_position_embeddings": 32}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def attention(length: int = LENGTH) -> int:
    """Four projections; scores and weighted sums, each a product of the row's length times the width."""
    return 2 * 4 * WIDTH * WIDTH + 2 * 2 * length * WIDTH


LAYER = attention() + 2 * 2 * WIDTH * INNER
HEAD = 2 * WIDTH * WORDS


def bert(**changes: Any) -> BertModel:
    return BertModel(BertConfig(**{**SHAPE, **changes}))


@pytest.mark.parametrize(("make", "by_hand"), [
    (bert, LAYERS * LAYER + 2 * WIDTH * WIDTH / LENGTH),  # the pooler reads one token of the row
    (lambda: RobertaModel(RobertaConfig(**SHAPE), add_pooling_layer=False), LAYERS * LAYER),
    (lambda: AlbertModel(AlbertConfig(**SHAPE, embedding_size=4), add_pooling_layer=False),
     2 * 4 * WIDTH + LAYERS * LAYER),  # one layer's parameters, run twice
    (lambda: BertForMaskedLM(BertConfig(**SHAPE)), LAYERS * LAYER + 2 * WIDTH * WIDTH + HEAD),
    (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_inner=INNER,
                                        **IDS)), LAYERS * LAYER + HEAD),
    (lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **IDS)), LAYERS * (LAYER + 2 * WIDTH * INNER) + HEAD),
    (lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, **IDS, num_key_value_heads=2, num_local_experts=4)),
     LAYERS * (attention() + 2 * 4 * WIDTH + 2 * 2 * 3 * WIDTH * INNER) + HEAD),  # a router, and two experts of four
    (lambda: T5ForConditionalGeneration(T5Config(vocab_size=WORDS, d_model=WIDTH, d_ff=INNER, d_kv=8, num_heads=2,
                                                 num_layers=LAYERS, pad_token_id=0, eos_token_id=1)),
     LAYERS * (LAYER + LAYER + attention()) + HEAD),
], ids=["bert", "roberta", "albert", "bert-mlm", "gpt2", "llama", "mixtral", "t5"])  # fmt: skip
def test_a_transformer_costs_what_its_formula_says(make: Any, by_hand: float) -> None:
    counted = count_flops(make(), sequence_length=LENGTH)
    assert counted.per_token[""] == by_hand
    assert counted.sequence_length == LENGTH and counted.unknown_because == ""


def test_fused_attention_and_masks_cost_the_same() -> None:
    model = bert(attn_implementation="sdpa")
    rows = torch.zeros(3, LENGTH, dtype=torch.long)
    masked = count_flops(model, inputs={"attention_mask": torch.ones_like(rows), "input_ids": rows})
    assert masked.per_token[""] == count_flops(model, sequence_length=LENGTH).per_token[""]
    assert masked.sequence_length == LENGTH


def test_attention_grows_with_the_row() -> None:
    short, long = (count_flops(bert(), sequence_length=length).per_token["encoder"] for length in (8, 24))
    assert long - short == LAYERS * 2 * 2 * 16 * WIDTH


def test_every_module_has_its_part() -> None:
    per_token = count_flops(bert(), sequence_length=LENGTH).per_token
    assert per_token["encoder.layer"] == per_token["encoder"] == LAYERS * LAYER
    assert per_token["encoder.layer.1.intermediate.dense"] == 2 * WIDTH * INNER
    assert per_token["encoder.layer.0.attention"] == attention()
    assert per_token["embeddings"] == 0


class Odd(nn.Module):
    """A linear layer called twice, a tensor that is no parameter, a matrix times a vector, and a hook that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = torch.ones(4)
        self.query = nn.Parameter(torch.ones(4))
        self.calls = 0
        self.layer.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))

    def forward(self, states: Tensor, times: int = 2) -> Tensor:
        for _ in range(times):
            states = self.layer(states) * self.scale
        return states @ self.query


def test_own_modules_are_counted_on_given_inputs_without_being_called() -> None:
    model = Odd()
    once = count_flops(model, inputs=(torch.zeros(2, 3, 4), 1))
    twice = count_flops(model, inputs={"states": torch.zeros(5, 3, 4)})
    assert once.per_token == {"": 32 + 8, "layer": 32} and twice.per_token == {"": 64 + 8, "layer": 64}
    assert once.sequence_length == twice.sequence_length == 3
    assert model.calls == 0 and type(model.scale) is Tensor


def test_torch_layers_with_fast_paths_are_counted() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, INNER, batch_first=True)
    states = torch.zeros(1, LENGTH, WIDTH)
    assert count_flops(layer, inputs=states).per_token[""] == LAYER
    recurrent = nn.LSTM(WIDTH, 6, bidirectional=True, batch_first=True)
    assert count_flops(recurrent, inputs=states).per_token[""] == 2 * 2 * 4 * 6 * (WIDTH + 6)
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_leaves_the_model_and_the_generator_alone() -> None:
    model = bert()
    model.encoder.layer[0].eval()
    model.pooler.dense.weight.grad = torch.ones(WIDTH, WIDTH)
    flags = [module.training for module in model.modules()]
    before = {name: (id(tensor), tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    generator = torch.get_rng_state()
    count_flops(model, sequence_length=LENGTH)
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == at and torch.equal(after[name], value) for name, (at, value) in before.items())
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["pooler.dense.weight"]
    assert model.config._attn_implementation == "sdpa" and torch.equal(generator, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_without_memory_costs_the_same() -> None:
    with torch.device("meta"):
        hollow = bert()
    wanted = count_flops(bert(), sequence_length=LENGTH)
    assert count_flops(hollow, sequence_length=LENGTH) == wanted
    assert count_flops(bert().to(torch.bfloat16), sequence_length=LENGTH) == wanted


def test_what_cannot_be_found_is_unknown_with_a_reason() -> None:
    needs_values = BartForSequenceClassification(BartConfig(
        vocab_size=WORDS, d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER, forced_eos_token_id=2))  # fmt: skip
    packed = bert()
    packed.pooler.dense.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    for model, reason in [(Odd(), "which inputs a Odd reads is not known; give inputs="),
                          (needs_values, "cannot be run on shapes alone"), (packed, "packed integers")]:
        counted = count_flops(model, sequence_length=LENGTH)
        assert counted.per_token == {} and counted.sequence_length is None
        assert reason in counted.unknown_because


def test_what_the_user_gives_wrong_is_named() -> None:
    with pytest.raises(ConfigError, match="sequence_length=0"):
        count_flops(bert(), sequence_length=0)
    with pytest.raises(DataError, match="a Odd cannot be run on the shapes of these inputs"):
        count_flops(Odd(), inputs=torch.zeros(2, 3, 5))
    with pytest.raises(DataError, match="inputs=dict without a tensor"):
        count_flops(Odd(), inputs={"times": 2})


def test_the_longest_row_is_what_there_are_positions_for() -> None:
    assert longest_row(bert()) == 32
    assert longest_row(Odd()) is None


def test_the_example_in_the_docstring_holds() -> None:
    outcome = doctest.testmod(flops)
    assert outcome.attempted >= 1 and outcome.failed == 0
