"""The automatic adaptor for Hugging Face models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
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
from stillhouse.types import ALL_LOGITS, ATTENTION_SCORES, BESIDE_INPUTS, LABELS, LOGITS, Key

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
    (BertForQuestionAnswering, "spans"), (BertForMultipleChoice, "choices"),
])
def test_the_class_name_tells_the_head(kind: Any, logits: str) -> None:
    assert HuggingFaceAdaptor.for_model(bert(kind)).logits == logits


def test_a_model_without_a_known_head_is_refused_with_the_remedy() -> None:
    with pytest.raises(PlanError, match=r"BertModel does not say.*ForQuestionAnswering.*give HuggingFaceAdaptor\("
                                        r"logits=\.\.\.\) with one of rows, tokens, spans, choices"):
        HuggingFaceAdaptor.for_model(bert(BertModel))


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
    assert declared["labels"].tolist() == ([[True], [True]] if logits == "rows" else
                                           [[True, False, True], [True, True, False]])


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
    with pytest.raises(OutputError, match="the model gave no logits; its outputs were last_hidden_state"):
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


# Which predictions are compared


@pytest.mark.parametrize(("logits", "mask"), [("tokens", [[0, 1, 0], [0, 1, 1]]), ("rows", [[1], [0]])])
def test_a_batch_may_say_which_predictions_are_compared(logits: Any, mask: list[list[int]]) -> None:
    masks = HuggingFaceAdaptor(logits).masks({**INPUTS, "logits_mask": torch.tensor(mask)})
    assert masks["logits"].tolist() == mask
    assert masks["inputs"].tolist() == INPUTS["attention_mask"].tolist()


def test_a_row_without_any_token_is_not_compared() -> None:
    inputs = {**INPUTS, "attention_mask": torch.tensor([[1, 1, 0], [0, 0, 0]])}
    assert HuggingFaceAdaptor("rows").masks(inputs)["logits"].tolist() == [[True], [False]]


@pytest.mark.parametrize(("labels", "kept"), [
    (torch.tensor([[1.0, 0.0], [float("nan")] * 2]), [[True], [False]]),
    (torch.tensor([float("nan"), -0.5]), [[False], [True]]),
])
def test_labels_of_rows_may_be_several_or_a_number(labels: Tensor, kept: list[list[bool]]) -> None:
    assert HuggingFaceAdaptor("rows").masks({**INPUTS, "labels": labels})["labels"].tolist() == kept


# Several choices


CHOICES = {"input_ids": torch.tensor([[[1, 2, 3], [4, 5, 0]], [[6, 0, 0], [7, 8, 0]]]),
           "attention_mask": torch.tensor([[[1, 1, 1], [1, 1, 0]], [[1, 0, 0], [1, 1, 0]]]),
           "labels": torch.tensor([1, -100])}


def test_choices_are_compared_row_by_row_and_their_layers_text_by_text() -> None:
    model, adaptor = bert(BertForMultipleChoice), HuggingFaceAdaptor("choices")
    keys = frozenset({LOGITS, LABELS, Key("hidden", 1), Key("attention", 0)})
    features, masks = adaptor.run(model, CHOICES, keys, {})
    texts = {name: CHOICES[name].flatten(0, 1) for name in ("input_ids", "attention_mask")}
    alone = model.bert(**texts, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(features[Key("hidden", 1)], alone.hidden_states[1])
    torch.testing.assert_close(features[Key("attention", 0)], alone.attentions[0])
    torch.testing.assert_close(features[LOGITS], model.classifier(alone.pooler_output).view(2, 2))
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "inputs": texts["attention_mask"].tolist(), "logits": [[True], [True]], "labels": [[True], [False]]}
    assert {k: v.tolist() for k, v in adaptor.masks(CHOICES).items()} == {k: v.tolist() for k, v in masks.items()}
    assert adaptor.width(model, LOGITS) is None and adaptor.width(model, Key("hidden", 0)) == 8


# Spans


SPANS = {**INPUTS, "span_mask": torch.tensor([[1, 0, 1], [1, 1, 0]]), "start_positions": torch.tensor([2, -100]),
         "end_positions": torch.tensor([0, -100])}
END, END_LABELS = Key("logits", 1), Key("labels", 1)


def test_a_start_and_an_end_are_two_heads_and_minus_infinity_where_no_answer_can_be() -> None:
    model, adaptor = bert(BertForQuestionAnswering), HuggingFaceAdaptor("spans")
    features, masks = adaptor.run(model, SPANS, frozenset({ALL_LOGITS, LABELS}), {})
    outputs = model(**INPUTS)
    allowed = SPANS["span_mask"].ne(0)
    assert set(features) == {LOGITS, END, LABELS, END_LABELS}
    for key, whole in ((LOGITS, outputs.start_logits), (END, outputs.end_logits)):
        assert features[key].equal(whole.masked_fill(~allowed, -torch.inf))
        features[key][allowed].sum().backward(retain_graph=True)
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
    assert features[LABELS] is SPANS["start_positions"] and features[END_LABELS] is SPANS["end_positions"]
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "inputs": INPUTS["attention_mask"].tolist(), "logits": [[True], [True]], "logits.1": [[True], [True]],
        "labels": [[True], [False]]}
    assert {k: v.tolist() for k, v in adaptor.masks(SPANS).items()} == {k: v.tolist() for k, v in masks.items()}


def test_without_a_span_mask_an_answer_may_be_anywhere_but_in_padding() -> None:
    features = HuggingFaceAdaptor("spans").run(bert(BertForQuestionAnswering), INPUTS, frozenset({LOGITS}), {}).features
    assert features[LOGITS].isneginf().tolist() == INPUTS["attention_mask"].eq(0).tolist()
    ids = {"input_ids": INPUTS["input_ids"]}
    assert HuggingFaceAdaptor("spans").run(bert(BertForQuestionAnswering), ids, frozenset({END}), {}
                                           ).features[END].isfinite().all()


@pytest.mark.parametrize(("kind", "logits"), [(BertForQuestionAnswering, "spans"), (BertForMaskedLM, "tokens")])
def test_the_model_never_sees_what_stands_beside_its_inputs(kind: Any, logits: Any) -> None:
    model, given = bert(kind), []
    model.register_forward_pre_hook(lambda module, args, kwargs: given.append(set(kwargs)), with_kwargs=True)
    beside = {name: torch.zeros(2, 3, dtype=torch.long) for name in BESIDE_INPUTS}
    HuggingFaceAdaptor(logits).run(model, {**SPANS, **beside}, frozenset({LOGITS}), {})
    assert given == [{*INPUTS, "return_dict"}]


def test_a_model_without_a_start_is_named() -> None:
    with pytest.raises(OutputError, match="the model gave no start_logits; its outputs were logits"):
        HuggingFaceAdaptor("spans").run(bert(), INPUTS, frozenset({LOGITS}), {})


def test_only_the_hidden_states_asked_for_are_held() -> None:
    if not hasattr(pytest.importorskip("transformers.utils.output_capturing"), "selected_hidden_states"):
        pytest.skip("this version of transformers gives all hidden states or none")
    model, held = bert(), []
    model.register_forward_hook(lambda module, args, outputs: held.append([x is None for x in outputs.hidden_states]))
    HuggingFaceAdaptor("rows").run(model, INPUTS, frozenset({Key("hidden", 0), Key("hidden", -1)}), {})
    assert held == [[False, True, False]]
