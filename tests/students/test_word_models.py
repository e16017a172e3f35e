"""Promises that the recurrent and the convolutional students share, with every head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import PreTrainedModel

from stillhouse.adaptors.hugging_face import HuggingFaceAdaptor
from stillhouse.errors import PlanError
from stillhouse.flops import count_flops
from stillhouse.students.own_models import CONVOLUTIONAL, RECURRENT, Family
from stillhouse.tasks.pretrained import quiet_transformers
from stillhouse.types import Key

KINDS: dict[str, tuple[Family, dict[str, Any]]] = {
    "gru": (RECURRENT, {"cell": "gru", "num_hidden_layers": 2}),
    "lstm": (RECURRENT, {"cell": "lstm", "num_hidden_layers": 2}),
    "cnn": (CONVOLUTIONAL, {"num_hidden_layers": 2, "kernel_size": 3}),
}
WIDTH = 12
LABELS = {0: "red", 1: "green", 2: "blue"}
ENDINGS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
ROW = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each network in turn."""
    return str(request.param)


def make(kind: str, ending: str, **values: Any) -> Any:
    """A tiny student in float64, so that equal means equal, whose embeddings are narrower than its states."""
    family, sizes = KINDS[kind]
    torch.manual_seed(3)
    settings = {"vocab_size": 50, "embedding_size": 8, "hidden_size": WIDTH, "id2label": LABELS,
                "label2id": {name: i for i, name in LABELS.items()}, **sizes, **values}
    model = family.models[ending](family.config(**settings)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def padded(left: int, right: int) -> dict[str, Tensor]:
    """The row between that many positions of padding, over a longer row; padding holds ids of words."""
    length = left + 5 + right
    ids = torch.arange(2 * length).reshape(2, length) % 40 + 3
    mask = torch.ones_like(ids)
    ids[0, left:left + 5] = ROW
    mask[0, :left] = 0
    mask[0, left + 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def per_token(outputs: Any) -> list[Tensor]:
    """Everything in the outputs that has a position, (B, T, ...); the logits of a row are (B, C) and have none."""
    names = ["last_hidden_state", "start_logits", "end_logits"]
    names += ["logits"] if "logits" in outputs and outputs.logits.dim() == 3 else []
    return [*(outputs[name] for name in names if name in outputs), *outputs.hidden_states]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("left", "right"), [(0, 4), (4, 0), (3, 2)])
def test_padding_on_either_side_never_changes_a_row(kind: str, ending: str, left: int, right: int) -> None:
    model = make(kind, ending)
    alone = model(ROW, output_hidden_states=True)
    batch = padded(left, right)
    together = model(**batch, output_hidden_states=True)
    for one, of_two in zip(per_token(alone), per_token(together), strict=True):
        assert_close(of_two[:1, left:left + 5], one, rtol=0, atol=1e-12)
    for state in together.hidden_states:
        assert bool((state[batch["attention_mask"] == 0] == 0).all())
    if ending == "ForSequenceClassification":
        assert_close(together.logits[:1], alone.logits, rtol=0, atol=1e-12)
        assert alone.logits.shape == (1, len(LABELS))


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_word_before_and_behind_is_read(kind: str, ending: str) -> None:
    model, changed = make(kind, ending), ROW.clone()
    changed[0, 2] = 40
    before, after = model(ROW, output_hidden_states=True), model(changed, output_hidden_states=True)
    moved = (before.hidden_states[-1] != after.hidden_states[-1]).any(dim=-1)
    assert bool(moved.all())  # two layers of 3 words reach 2 to each side
    inputs = (before.hidden_states[0] != after.hidden_states[0]).any(dim=-1)
    assert inputs.tolist() == [[False, False, True, False, False]]


def test_hidden_states_are_as_many_and_as_wide_as_the_configuration_says(kind: str) -> None:
    model = make(kind, "ForTokenClassification")
    states = model(ROW, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(1, 5, WIDTH)] * (model.config.num_hidden_layers + 1)
    assert model(ROW).hidden_states is None
    assert torch.equal(states[-1], model.base_model(ROW).last_hidden_state)
    adaptor = HuggingFaceAdaptor.for_model(model)
    keys = frozenset({Key("hidden", 0), Key("hidden", 2), Key("logits", 0)})
    adaptor.check(model, keys)
    found = adaptor.run(model, {**padded(0, 2), "token_type_ids": torch.zeros(2, 7, dtype=torch.long)}, keys, {})
    assert {found.features[key].shape[-1] for key in keys if key.kind == "hidden"} == {WIDTH}
    assert adaptor.width(model, Key("hidden", 1)) == WIDTH


@pytest.mark.parametrize("ending", ENDINGS)
def test_attention_maps_are_refused(kind: str, ending: str) -> None:
    with pytest.raises(PlanError, match="has no attention maps: ask for hidden states"):
        make(kind, ending)(ROW, output_attentions=True)
    with pytest.raises(PlanError, match="was given no words: give input_ids, or inputs_embeds"):
        make(kind, ending)()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_row_without_words_says_nothing_and_harms_nothing(kind: str, ending: str) -> None:
    model = make(kind, ending)
    outputs = model(ROW.expand(2, 5), attention_mask=torch.tensor([[1] * 5, [0] * 5]), output_hidden_states=True)
    assert bool((outputs.hidden_states[-1][1] == 0).all())
    total = sum(value.sum() for value in per_token(outputs)) + outputs.get("logits", torch.zeros(1)).sum()
    total.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_words_may_be_given_as_vectors_and_rows_may_be_long(kind: str) -> None:
    model = make(kind, "ForSequenceClassification")
    ids = torch.arange(600)[None] % 50
    logits = model(ids).logits
    assert_close(model(inputs_embeds=model.get_input_embeddings()(ids), return_dict=False)[0], logits)


@pytest.mark.parametrize(("problem", "labels", "expected"), [
    ("single_label_classification", torch.tensor([2, 0]), F.cross_entropy),
    ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 0, 1]]).double(),
     F.binary_cross_entropy_with_logits),
    ("regression", torch.tensor([[0.5, 0, 1], [2, -1, 1]]).double(), F.mse_loss),
])
def test_the_loss_is_that_of_the_problem_type(kind: str, problem: str, labels: Tensor, expected: Any) -> None:
    outputs = make(kind, "ForSequenceClassification", problem_type=problem)(**padded(0, 3), labels=labels)
    assert_close(outputs.loss, expected(outputs.logits, labels))


def test_the_losses_of_tags_and_spans_are_cross_entropies(kind: str) -> None:
    labels = torch.tensor([[0, 1, -100, 2, 1, -100, -100], [2] * 7])
    tags = make(kind, "ForTokenClassification")(**padded(0, 2), labels=labels)
    kept = labels != -100
    right = tags.logits.log_softmax(-1)[kept].gather(1, labels[kept][:, None])
    assert_close(tags.loss.double(), -right.mean(), rtol=1e-6, atol=1e-6)
    starts, ends = torch.tensor([1, 0]), torch.tensor([3, 6])
    spans = make(kind, "ForQuestionAnswering")(**padded(0, 2), start_positions=starts, end_positions=ends)
    both = F.cross_entropy(spans.start_logits, starts) + F.cross_entropy(spans.end_logits, ends)
    assert_close(spans.loss, both / 2)


@pytest.mark.parametrize("ending", ENDINGS)
def test_saved_and_loaded_without_a_complaint(kind: str, ending: str, tmp_path: Path) -> None:
    model: PreTrainedModel = make(kind, ending)
    with quiet_transformers():
        model.save_pretrained(tmp_path)
        loaded, report = getattr(transformers, f"AutoModel{ending.removeprefix('Model')}").from_pretrained(
            tmp_path, output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(report.values())
    assert loaded.dtype == torch.float64
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for one, other in zip(per_token(model(ROW, output_hidden_states=True)),
                          per_token(loaded(ROW, output_hidden_states=True)), strict=True):
        assert_close(other, one, rtol=0, atol=1e-12)
    assert loaded.config.id2label == LABELS
    assert not hasattr(loaded.config, "max_position_embeddings")
    assert not hasattr(loaded.config, "num_attention_heads")


def test_another_head_starts_from_the_saved_encoder(kind: str, tmp_path: Path) -> None:
    model = make(kind, "ForTokenClassification")
    with quiet_transformers():
        model.save_pretrained(tmp_path)
        loaded, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path, output_loading_info=True, ignore_mismatched_sizes=True)
    assert not report["missing_keys"]
    assert {name for name, *_ in report["mismatched_keys"]} == {"classifier.weight"}
    assert_close(loaded.base_model(ROW).last_hidden_state, model.base_model(ROW).last_hidden_state)


def test_half_precision_training_gives_finite_gradients(kind: str) -> None:
    model = make(kind, "ForSequenceClassification").float().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**padded(1, 2), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters())


def test_flops_are_those_of_the_matrix_products(kind: str) -> None:
    model = make(kind, "ForTokenClassification").float()
    gates = {"gru": 3, "lstm": 4, "cnn": 0}[kind]
    half = WIDTH // 2
    layer = 2 * gates * (WIDTH * half + half * half) if gates else 3 * WIDTH * WIDTH
    expected = 2 * (8 * WIDTH + 2 * layer + WIDTH * len(LABELS))
    assert count_flops(model, sequence_length=16).per_token[""] == pytest.approx(expected)


@pytest.mark.parametrize(("values", "message"), [
    ({"hidden_size": 0}, "hidden_size is 0: give a whole number from 1"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True: give a whole number"),
    ({"dropout": 1.0}, "dropout is 1.0: give a number from 0 to below 1"),
    ({"dropout": "much"}, "dropout is 'much': give a number"),
])
def test_sizes_that_cannot_be_are_refused(kind: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        make(kind, "Model", **values)
