"""Promises of the networks made beside a teacher."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from stillhouse.errors import PlanError
from stillhouse.students import StudentSpec, build_student, known_networks, plan_student
from stillhouse.tasks.pretrained import quiet_transformers

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": 50, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
LABELS = {0: "red", 1: "green", 2: "blue"}
NAMES = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
SMALL = {"hidden_size": 24}
ENDINGS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def make_teacher(name: str, **values: Any) -> PreTrainedModel:
    """A tiny teacher of that class."""
    family = next(prefix for prefix in ("Bert", "Electra", "DistilBert", "Albert", "ModernBert", "GPT2", "T5")
                  if name.startswith(prefix))
    extra = {"Electra": {"embedding_size": 16}, "Albert": {"embedding_size": 16},
             "ModernBert": {"cls_token_id": 0, "sep_token_id": 2},
             "T5": {"num_heads": 4, "d_kv": 8, "d_ff": 64, "decoder_start_token_id": 1}}.get(family, {})
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **extra, **values})
    model: PreTrainedModel = getattr(transformers, name)(config)
    return model.eval()


@pytest.mark.parametrize("network", known_networks())
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_network_has_the_teachers_words_labels_and_head(network: str, ending: str, tmp_path: Path) -> None:
    labels = {} if ending in ("Model", "ForQuestionAnswering") else NAMES
    teacher = make_teacher(f"Electra{ending}", **labels)
    student = build_student(teacher, StudentSpec(network=network, config=SMALL), seed=0)
    assert student.training
    assert type(student).__name__.endswith(ending)
    words = student.get_input_embeddings().weight
    assert torch.equal(words, teacher.get_input_embeddings().weight)
    assert words.data_ptr() != teacher.get_input_embeddings().weight.data_ptr()
    assert words.requires_grad
    assert (student.config.vocab_size, student.config.embedding_size, student.config.hidden_size) == (50, 16, 24)
    assert student.config.pad_token_id == 1
    assert student.config.id2label == teacher.config.id2label
    assert student.config.label2id == teacher.config.label2id
    with quiet_transformers():
        student.save_pretrained(tmp_path)
        loaded = getattr(transformers, f"AutoModel{ending.removeprefix('Model')}").from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    for one, other in zip(loaded(ids).to_tuple(), student.eval()(ids).to_tuple(), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("name", ["AlbertForSequenceClassification", "DistilBertForTokenClassification",
                                  "GPT2ForSequenceClassification", "ModernBertForSequenceClassification",
                                  "T5EncoderModel", "T5ForSequenceClassification"])
def test_any_family_with_word_embeddings_can_have_a_network(name: str) -> None:
    teacher = make_teacher(name)
    student = build_student(teacher, StudentSpec(network="BiGRU", config=SMALL), seed=0)
    assert torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight)


def test_embeddings_of_another_size_than_the_configuration_says_are_taken_as_they_are() -> None:
    teacher = make_teacher("BertForSequenceClassification")
    teacher.set_input_embeddings(nn.Embedding(70, 20).to(torch.bfloat16))
    student = build_student(teacher, StudentSpec(network="CNN"))
    words = student.get_input_embeddings().weight
    assert words.shape == (70, 20) == (student.config.vocab_size, student.config.embedding_size)
    assert words.dtype == torch.float32
    assert torch.equal(words, teacher.get_input_embeddings().weight.float())


@pytest.mark.parametrize(("spec", "expected"), [
    (StudentSpec(network="BiGRU"), "BiGRU, 1 layer x 512, with the teacher's word embeddings"),
    (StudentSpec(network="BiLSTM", config={"num_hidden_layers": 2, "hidden_size": 64}),
     "BiLSTM, 2 layers x 64, with the teacher's word embeddings"),
    (StudentSpec(network="CNN"), "CNN, 3 layers x 512, with the teacher's word embeddings"),
])
def test_the_plan_says_what_will_be_built(spec: StudentSpec, expected: str) -> None:
    teacher = make_teacher("BertForSequenceClassification")
    plan = plan_student(teacher.config, spec)
    assert plan.description == expected
    assert plan.starts_from == "the teacher's word embeddings"
    assert not plan.from_scratch
    assert plan.config.to_dict() == build_student(teacher, spec).config.to_dict() | {
        "architectures": None, "dtype": None}


def test_settings_reach_the_modules() -> None:
    settings = {"num_hidden_layers": 2, "hidden_size": 24, "dropout": 0.4, "kernel_size": 7}
    student = build_student(make_teacher("BertForTokenClassification"), StudentSpec(network="CNN", config=settings))
    assert len(student.base_model.layers) == 2
    assert {layer.convolution.kernel_size for layer in student.base_model.layers} == {(7,)}
    assert {module.p for module in student.modules() if isinstance(module, nn.Dropout)} == {0.4}
    for network, cell in (("BiGRU", nn.GRU), ("BiLSTM", nn.LSTM)):
        student = build_student(make_teacher("BertModel"), StudentSpec(network=network, config=SMALL))
        assert sum(isinstance(module, cell) for module in student.modules()) == 2


def test_building_moves_neither_the_generator_nor_the_teacher() -> None:
    teacher = make_teacher("BertForSequenceClassification").requires_grad_(False)
    weights, config = copy.deepcopy(teacher.state_dict()), teacher.config.to_dict()
    state = torch.get_rng_state()
    built = [build_student(teacher, StudentSpec(network="BiLSTM", config=SMALL), seed) for seed in (1, 1, 2, None)]
    assert torch.equal(torch.get_rng_state(), state)
    vectors = [nn.utils.parameters_to_vector(model.parameters()).detach() for model in built]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    with torch.no_grad():
        for parameter in built[0].parameters():
            parameter.zero_()
    built[0].config.id2label[0] = "other"
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())
    assert teacher.config.to_dict() == config


@pytest.mark.parametrize(("spec", "message"), [
    (StudentSpec(network="BiGru"), r"unknown network 'BiGru': did you mean 'BiGRU'\? Known: BiGRU, BiLSTM, CNN"),
    (StudentSpec(network="BiGRU", config={"kernel_size": 3}),
     "unknown setting of BiGRU 'kernel_size'.* Known: dropout, hidden_size, num_hidden_layers"),
    (StudentSpec(network="BiGRU", config={"hidden_size": 33}), "not a valid BiGRU: hidden_size is 33: .* even number"),
    (StudentSpec(network="BiGRU", config={"hidden_size": "wide"}), "not a valid BiGRU: hidden_size is 'wide'"),
    (StudentSpec(network="CNN", config={"kernel_size": 4}), "not a valid CNN: kernel_size is 4: give an odd number"),
    (StudentSpec(network="CNN", config={"vocab_size": 4}), "unknown setting of CNN 'vocab_size'"),
])
def test_an_impossible_network_is_refused_with_its_remedy(spec: StudentSpec, message: str) -> None:
    with pytest.raises(PlanError, match=f"(?s){message}"):
        plan_student(transformers.BertConfig(), spec)


def test_another_head_is_told_which_are_possible() -> None:
    teacher = make_teacher("BertForMaskedLM")
    with pytest.raises(PlanError, match=r"ForSequenceClassification, ForTokenClassification, ForQuestionAnswering, but "
                                        r"the teacher is a BertForMaskedLM: .*\{model: PATH\}"):
        build_student(teacher, StudentSpec(network="BiGRU", config=SMALL))


def test_a_teacher_without_words_is_refused() -> None:
    vision = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    with pytest.raises(PlanError, match=r"ViTConfig.* no single vocab_size .*\{model: PATH\}"):
        plan_student(vision, StudentSpec(network="CNN"))
    canine = transformers.CanineConfig(**{**SIZES, "num_hash_buckets": 16, "num_hash_functions": 4})
    canine.vocab_size = 50
    teacher = transformers.CanineForTokenClassification(canine)
    with pytest.raises(PlanError, match=r"vector a token, and a CanineForTokenClassification has .*\{model: PATH\}"):
        build_student(teacher, StudentSpec(network="CNN"))
