"""The automatic adaptor for Hugging Face models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from stillhouse.adaptors import HuggingFaceAdaptor
from stillhouse.errors import OutputError, PlanError
from stillhouse.types import ALL_LOGITS, ATTENTION_SCORES, LABELS, LOGITS, Key

INPUTS = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
          "token_type_ids": torch.zeros(2, 3, dtype=torch.long)}


def bert(kind: Any = BertForSequenceClassification, attention: str = "eager") -> Any:
    torch.manual_seed(0)
    return kind(BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, attn_implementation=attention,
        num_labels=2 if kind is BertForQuestionAnswering else 3)).eval()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of every forward of the classifier."""
    calls: list[dict[str, Any]] = []
    forward = BertForSequenceClassification.forward

    def recording(self: Any, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None,
                  labels: Any = None, return_dict: Any = None, output_hidden_states: Any = None,
                  output_attentions: Any = None, **kwargs: Any) -> Any:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids,
                 "labels": labels, "output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        given = {k: v for k, v in given.items() if v is not None} | kwargs
        calls.append(given)
        return forward(self, **given)

    monkeypatch.setattr(BertForSequenceClassification, "forward", recording)
    return calls


@pytest.mark.parametrize(("keys", "switched_on"), [
    ({LOGITS}, set()), ({ALL_LOGITS}, set()), ({Key("hidden", 1)}, {"output_hidden_states"}),
    ({LOGITS, Key("attention", 0)}, {"output_attentions"}),
    ({Key("hidden", 0), Key("attention", 0)}, {"output_hidden_states", "output_attentions"}),
])
def test_only_what_is_asked_for_is_switched_on(seen: list[dict[str, Any]], keys: Any, switched_on: set[str]) -> None:
    features = HuggingFaceAdaptor("rows").run(bert(), INPUTS, frozenset(keys), {}).features
    assert {name for name in seen[0] if name.startswith("output_")} == switched_on
    assert set(features) == {LOGITS if key == ALL_LOGITS else key for key in keys}


def test_tensors_are_those_of_the_model() -> None:
    model = bert()
    outputs = model(**INPUTS, output_hidden_states=True, output_attentions=True)
    keys = {LOGITS, Key("hidden", 0), Key("hidden", 2), Key("hidden", -1), Key("attention", 1)}
    features = HuggingFaceAdaptor("rows").run(model, INPUTS, frozenset(keys), {}).features
    assert features[LOGITS].equal(outputs.logits)
    assert features[Key("hidden", 0)].equal(model.bert.embeddings(INPUTS["input_ids"]))
    assert features[Key("hidden", 2)].equal(outputs.hidden_states[2])
    assert features[Key("hidden", -1)].equal(outputs.hidden_states[2])
    assert features[Key("attention", 1)].equal(outputs.attentions[1])


def test_the_model_never_sees_labels_or_columns_it_does_not_know(seen: list[dict[str, Any]]) -> None:
    labels = torch.tensor([1, -100])
    inputs = {**INPUTS, "labels": labels, "row_number": torch.arange(2)}
    signals = HuggingFaceAdaptor("rows").run(bert(), inputs, frozenset({LOGITS, LABELS}), {})
    assert set(seen[0]) == {"input_ids", "attention_mask", "token_type_ids"}
    assert signals.features[LABELS] is labels and signals.masks["labels"].tolist() == [[True], [False]]


def test_extra_arguments_reach_the_model(seen: list[dict[str, Any]]) -> None:
    HuggingFaceAdaptor("rows").run(bert(), INPUTS, frozenset({LOGITS}), {"position_ids": torch.tensor([[0, 2, 4]])})
    assert seen[0]["position_ids"].tolist() == [[0, 2, 4]]


def test_a_model_without_token_types_does_not_get_them() -> None:
    model = DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=20, dim=8, n_layers=2, n_heads=2, hidden_dim=8, max_position_embeddings=16, num_labels=3)).eval()
    adaptor = HuggingFaceAdaptor.for_model(model)
    adaptor.check(model, frozenset({Key("hidden", 2)}))
    assert adaptor.run(model, INPUTS, frozenset({LOGITS}), {}).features[LOGITS].shape == (2, 3)


@pytest.mark.parametrize(("kind", "logits"), [
    (BertForSequenceClassification, "rows"), (BertForTokenClassification, "tokens"), (BertForMaskedLM, "tokens"),
])
def test_the_class_name_tells_the_head(kind: Any, logits: str) -> None:
    assert HuggingFaceAdaptor.for_model(bert(kind)).logits == logits


@pytest.mark.parametrize("kind", [BertModel, BertForQuestionAnswering])
def test_a_model_without_a_known_head_is_refused_with_the_remedy(kind: Any) -> None:
    with pytest.raises(PlanError, match=r"does not say.*give HuggingFaceAdaptor\(logits='rows'\)"):
        HuggingFaceAdaptor.for_model(bert(kind))


def test_inputs_without_names_are_refused_with_the_remedy() -> None:
    with pytest.raises(OutputError, match="give dictionaries, or a FunctionAdaptor"):
        HuggingFaceAdaptor("rows").run(bert(), tuple(INPUTS.values()), frozenset({LOGITS}), {})


@pytest.mark.parametrize("logits", ["rows", "tokens"])
def test_declared_masks_are_those_that_a_run_returns(logits: Any) -> None:
    adaptor = HuggingFaceAdaptor(logits)
    model = bert(BertForSequenceClassification if logits == "rows" else BertForTokenClassification)
    inputs = {**INPUTS, "labels": torch.tensor([[1, -100, 2], [0, 0, -100]])}
    declared, found = adaptor.masks(inputs), adaptor.run(model, inputs, frozenset({LOGITS}), {}).masks
    assert adaptor.declares_masks
    assert {k: v.tolist() for k, v in declared.items()} == {k: v.tolist() for k, v in found.items()}
    assert declared["inputs"].tolist() == INPUTS["attention_mask"].tolist()
    assert declared["logits"].tolist() == ([[1], [1]] if logits == "rows" else INPUTS["attention_mask"].tolist())
    assert declared["labels"].tolist() == [[True, False, True], [True, True, False]]


def test_no_mask_is_a_mask_of_ones() -> None:
    for inputs in ({"input_ids": INPUTS["input_ids"]}, {"inputs_embeds": torch.zeros(2, 3, 8)}):
        masks = HuggingFaceAdaptor("tokens").masks(inputs)
        assert set(masks) == {"inputs", "logits"}
        assert all(mask.shape == (2, 3) and mask.eq(1).all() for mask in masks.values())


@pytest.mark.parametrize("key", [Key("hidden", 3), Key("hidden", -4), Key("attention", 2), Key("attention", -3),
                                 Key("attention_scores", 2)])
def test_layers_that_do_not_exist_are_refused(key: Key) -> None:
    with pytest.raises(PlanError, match=rf"{key.index} does not exist: BertForSequenceClassification has 2 layers"):
        HuggingFaceAdaptor("rows").check(bert(), frozenset({LOGITS, key}))


def test_layers_that_exist_are_allowed() -> None:
    keys = [Key("hidden", layer) for layer in range(-3, 3)] + [Key("attention", layer) for layer in range(-2, 2)]
    HuggingFaceAdaptor("rows").check(bert(), frozenset({LOGITS, LABELS, *keys}))


def test_attention_without_the_eager_implementation_is_refused_with_the_remedy() -> None:
    with pytest.raises(PlanError, match=r"uses the 'sdpa' implementation.*attn_implementation='eager'"):
        HuggingFaceAdaptor("rows").check(bert(attention="sdpa"), frozenset({Key("attention", 0)}))
    HuggingFaceAdaptor("rows").check(bert(attention="sdpa"), frozenset({Key("hidden", 0)}))


def test_scores_are_the_logarithm_of_the_models_probabilities() -> None:
    model, key = bert(), Key("attention_scores", 1)
    probabilities = model(**INPUTS, output_attentions=True).attentions[1]
    scores = HuggingFaceAdaptor("rows").run(model, INPUTS, frozenset({key}), {}).features[key]
    torch.testing.assert_close(scores.softmax(dim=-1), probabilities)
    assert bool((probabilities == 0).any()) and bool(scores.isfinite().all()), "padding has probability 0"
    kept = probabilities > 0
    torch.testing.assert_close(scores[kept], probabilities[kept].log())
    halves = HuggingFaceAdaptor("rows").run(model.bfloat16(), INPUTS, frozenset({key}), {}).features[key]
    assert halves.dtype == torch.float32 and bool(halves.isfinite().all())


def test_dropout_of_attention_is_refused_for_a_student_whose_scores_are_asked_for() -> None:
    adaptor, model = HuggingFaceAdaptor("rows"), bert()
    assert model.config.attention_probs_dropout_prob == 0.1
    with pytest.raises(PlanError, match=r"student's attention_probs_dropout_prob is 0.1: .*=0.0"):
        adaptor.check(model, frozenset({Key("attention_scores", 0)}), is_trained=True)
    adaptor.check(model, frozenset({Key("attention_scores", 0)}))
    adaptor.check(model, frozenset({Key("attention", 0)}), is_trained=True)
    model.config.attention_probs_dropout_prob = 0.0
    adaptor.check(model, frozenset({Key("attention_scores", 0)}), is_trained=True)


def test_widths_are_known_before_any_forward() -> None:
    adaptor, model = HuggingFaceAdaptor("rows"), bert()
    assert adaptor.width(model, Key("hidden", 1)) == 8 and adaptor.width(model, LOGITS) == 3
    assert adaptor.width(model, Key("attention", 0)) == adaptor.width(model, Key("attention_scores", 1)) == 2, "heads"
    assert adaptor.width(model, Key("embedding", 0)) is None
    assert HuggingFaceAdaptor("tokens").width(bert(BertForMaskedLM), LOGITS) is None


def test_what_the_model_does_not_give_is_named() -> None:
    with pytest.raises(OutputError, match=r"the model gave no logits\[0\]"):
        HuggingFaceAdaptor("rows").run(bert(BertModel), INPUTS, frozenset({LOGITS}), {})


def test_the_fingerprint_holds_across_processes_and_tells_heads_apart() -> None:
    adaptors = [HuggingFaceAdaptor("rows"), HuggingFaceAdaptor("tokens")]
    assert len({adaptor.fingerprint for adaptor in adaptors}) == 2
    assert adaptors[0].fingerprint == HuggingFaceAdaptor("rows").fingerprint == "hugging-face/1 logits=rows"


def test_a_run_keeps_the_graph_of_the_student() -> None:
    model: nn.Module = bert()
    signals = HuggingFaceAdaptor("rows").run(model, INPUTS, frozenset({LOGITS, Key("hidden", 1)}), {})
    assert all(value.requires_grad for value in signals.features.values())


def test_dropout_under_an_unknown_name_is_found_at_the_first_forward() -> None:
    model = bert()
    model.config.attention_probs_dropout_prob = 0.0  # as if the family had another name for it
    adaptor, scores = HuggingFaceAdaptor("rows"), frozenset({Key(ATTENTION_SCORES, 0)})
    inputs = {"input_ids": torch.arange(24).reshape(2, 12) % 20}
    adaptor.check(model, scores, is_trained=True)
    with pytest.raises(OutputError, match=r"are no probabilities.*dropout of attention probabilities is on"):
        adaptor.run(model.train(), inputs, scores, {})
    assert HuggingFaceAdaptor("rows").run(model.eval(), inputs, scores, {}).features


def test_gpt2_says_dropout_in_its_own_words() -> None:
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2, num_labels=3, attn_implementation="eager")
    model = GPT2ForSequenceClassification(config)
    with pytest.raises(PlanError, match=r"attn_pdrop is 0\.1"):
        HuggingFaceAdaptor("rows").check(model, frozenset({Key(ATTENTION_SCORES, 0)}), is_trained=True)
