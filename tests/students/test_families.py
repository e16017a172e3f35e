"""Promises of students cut out of, or reshaped from, a teacher of each encoder family, with each of its heads."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from stillhouse.adaptors.layers import KNOWN_FAMILIES
from stillhouse.students import StudentSpec, build_student
from stillhouse.tasks.pretrained import quiet_transformers

DEPTH = 4
KEPT = (0, 2, 3)
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
DEBERTA_V3 = {"relative_attention": True, "position_biased_input": False, "norm_rel_ebd": "layer_norm",
              "share_att_key": True, "pos_att_type": "p2c|c2p", "position_buckets": 4, "max_relative_positions": -1,
              "type_vocab_size": 0, "pooler_hidden_size": 32}
# The class prefix, where the layers are, and the settings that make the family what it is.
TEACHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "bert.encoder.layer", {}),
    "camembert": ("Camembert", "roberta.encoder.layer", {}),
    "deberta-v2": ("DebertaV2", "deberta.encoder.layer", DEBERTA_V3),
    "distilbert": ("DistilBert", "distilbert.transformer.layer", {"hidden_dim": 64}),
    "electra": ("Electra", "electra.encoder.layer", {"embedding_size": 16}),
    "ernie": ("Ernie", "ernie.encoder.layer", {"use_task_id": True}),
    "modernbert": ("ModernBert", "model.layers", {"local_attention": 4, "cls_token_id": 0, "sep_token_id": 2}),
    "mpnet": ("MPNet", "mpnet.encoder.layer", {"relative_attention_num_buckets": 32}),
    "roberta": ("Roberta", "roberta.encoder.layer", {}),
    "xlm-roberta": ("XLMRoberta", "roberta.encoder.layer", {}),
}
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM",
         "ForMultipleChoice")

pytestmark = pytest.mark.parametrize("head", HEADS)


@pytest.fixture(params=KNOWN_FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each encoder family in turn."""
    return str(request.param)


def make_teacher(family: str, head: str, **values: Any) -> PreTrainedModel:
    """A tiny model of the family, every weight random (also those that are usually 0 or 1)."""
    torch.manual_seed(5)
    prefix, _, extra = TEACHERS[family]
    config = getattr(transformers, f"{prefix}Config")(**{**SIZES, **extra, **values})
    model: PreTrainedModel = getattr(transformers, f"{prefix}{head}")(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def answer(model: nn.Module) -> Tensor:
    """All logits for a padded batch of rows that are longer than a local layer of ModernBERT sees."""
    ids = torch.arange(24).reshape(2, 12) + 5
    ids[1, 7:] = 1
    if type(model).__name__.endswith("ForMultipleChoice"):
        ids = ids[None]
    with torch.no_grad():
        outputs = model.eval()(input_ids=ids, attention_mask=(ids != 1).long())
    kept = [outputs[name] for name in ("logits", "start_logits", "end_logits") if name in outputs]
    return torch.stack(kept)


def round_trip(model: PreTrainedModel, head: str, folder: Path) -> PreTrainedModel:
    """The model, saved and loaded by the task's automatic class."""
    with quiet_transformers():
        model.save_pretrained(folder)
        loaded: PreTrainedModel = getattr(transformers, f"AutoModel{head}").from_pretrained(folder)
    return loaded


def assert_same(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Same class, same weights, same answer."""
    assert type(model) is type(other)
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert_close(answer(model), answer(other))


def assert_tied(model: PreTrainedModel) -> None:
    """A model with a word for its answer answers from its word embeddings."""
    output = model.get_output_embeddings()
    if type(model).__name__.endswith("ForMaskedLM"):
        assert output is not None
        assert output.weight is model.get_input_embeddings().weight


def test_kept_layers_are_the_teachers_and_stay_so_on_disk(family: str, head: str, tmp_path: Path) -> None:
    teacher = make_teacher(family, head)
    student = build_student(teacher, StudentSpec(layers=KEPT), seed=0)
    path = re.escape(TEACHERS[family][1])
    weights = teacher.state_dict()
    for name, value in student.state_dict().items():
        match = re.fullmatch(rf"({path})\.(\d+)\.(.*)", name)
        source = f"{match[1]}.{KEPT[int(match[2])]}.{match[3]}" if match else name
        assert torch.equal(value, weights[source]), name
    assert_tied(student)
    loaded = round_trip(student, head, tmp_path)
    assert_same(loaded, student)
    assert_tied(loaded)


def test_removing_the_layers_by_hand_gives_the_same_answer(family: str, head: str) -> None:
    teacher = make_teacher(family, head)
    path, _, last = TEACHERS[family][1].rpartition(".")
    cut = copy.deepcopy(teacher)
    stack = cut.get_submodule(path)
    setattr(stack, last, nn.ModuleList([getattr(stack, last)[i] for i in KEPT]))
    cut.config.num_hidden_layers = len(KEPT)
    if family == "distilbert":
        stack.n_layers = len(KEPT)
    student = build_student(teacher, StudentSpec(layers=KEPT))
    assert_close(answer(student), answer(cut))
    assert not torch.allclose(answer(student), answer(teacher), atol=1e-2)


def test_keeping_every_layer_gives_the_teacher_again(family: str, head: str) -> None:
    teacher = make_teacher(family, head)
    assert_same(build_student(teacher, StudentSpec(keep=DEPTH)), teacher)


SPECS = {"T3": StudentSpec(shape="T3"), "T4-tiny": StudentSpec(shape="T4-tiny"),
         "config": StudentSpec(config={"num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 40})}


@pytest.mark.parametrize("spec", SPECS)
def test_shapes_answer_saved_and_loaded_alike(family: str, head: str, spec: str, tmp_path: Path) -> None:
    student = build_student(make_teacher(family, head), SPECS[spec], seed=0)
    assert bool(torch.isfinite(answer(student)).all())
    assert student.config.hidden_size == (48 if spec == "config" else 32)
    loaded = round_trip(student, head, tmp_path)
    assert_same(loaded, student)
    assert_tied(loaded)
