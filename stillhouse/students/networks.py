"""Students that are no transformers, made beside a teacher: they take its word embeddings and its labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.errors import PlanError, unknown_name
from stillhouse.students.own_models import CONVOLUTIONAL, RECURRENT, Family
from stillhouse.students.shapes import OWN_MODEL, WIDTH, size_of
from stillhouse.students.word_models import WordConfig


class Network(NamedTuple):
    """A kind of student: its classes, what its name stands for, and what a user may set."""

    family: Family
    fixed: Mapping[str, Any]
    settings: tuple[str, ...]


_SIZES = ("num_hidden_layers", "hidden_size", "dropout")

NETWORKS: Mapping[str, Network] = {
    "BiGRU": Network(RECURRENT, {"cell": "gru"}, _SIZES),
    "BiLSTM": Network(RECURRENT, {"cell": "lstm"}, _SIZES),
    "CNN": Network(CONVOLUTIONAL, {}, (*_SIZES, "kernel_size")),
}
"""What ``{network: NAME}`` takes. BiGRU and BiLSTM are 1 layer x 512, the CNN is 3 x 512, unless ``config`` says so."""


def known_networks() -> tuple[str, ...]:
    """The names that ``{network: NAME}`` takes."""
    return tuple(NETWORKS)


def network_config(teacher_config: PretrainedConfig, name: str, settings: Mapping[str, Any]) -> WordConfig:
    """The student's configuration, with the teacher's vocabulary and labels.

    Raises `PlanError` for an unknown network or setting, and for a value that it cannot have.
    """
    if name not in NETWORKS:
        raise PlanError(unknown_name("network", name, NETWORKS))
    network = NETWORKS[name]
    for setting in settings:
        if setting not in network.settings:
            raise PlanError(unknown_name(f"setting of {name}", setting, network.settings))
    try:
        return network.family.config(
            vocab_size=size_of(teacher_config, "vocab_size"),
            embedding_size=getattr(teacher_config, "embedding_size", None) or size_of(teacher_config, WIDTH),
            pad_token_id=getattr(teacher_config, "pad_token_id", None),
            id2label=copy.deepcopy(teacher_config.id2label),
            label2id=copy.deepcopy(teacher_config.label2id),
            problem_type=teacher_config.problem_type,
            **network.fixed, **settings,
        )
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise PlanError(f"the student is not a valid {name}: {error.__cause__ or error}") from error


def build_network(teacher: PreTrainedModel, name: str, config: WordConfig) -> PreTrainedModel:
    """The student with a head like the teacher's and a copy of its word embeddings, whose sizes the student takes.

    Raises `PlanError` for a teacher with another head, or without one matrix of word embeddings.
    """
    models = NETWORKS[name].family.models
    ending = _ending(teacher, models)
    embeddings = _word_embeddings(teacher, name)
    config.vocab_size, config.embedding_size = embeddings.shape
    student: PreTrainedModel = models[ending](config)
    with torch.no_grad():
        student.get_input_embeddings().get_parameter("weight").copy_(embeddings)
    return student


def _ending(teacher: PreTrainedModel, models: Mapping[str, Any]) -> str:
    """How the class of the student ends: as the teacher's does."""
    if teacher.base_model is teacher:
        return "Model"
    name = type(teacher).__name__
    ending = next((ending for ending in models if ending != "Model" and name.endswith(ending)), None)
    if ending is None:
        raise PlanError("a network can be the student of a model without a head, or of one whose class name ends in "
                        f"{', '.join(list(models)[1:])}, but the teacher is a {name}: ask for a student of its own "
                        f"class (keep, layers, shape or config), or {OWN_MODEL}")
    return ending


def _word_embeddings(teacher: PreTrainedModel, name: str) -> torch.Tensor:
    try:
        module = teacher.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        module = None
    if not isinstance(module, nn.Embedding):
        found = "none" if module is None else f"a {type(module).__name__}"
        raise PlanError(f"a {name} takes the teacher's word embeddings, one vector a token, and a "
                        f"{type(teacher).__name__} has {found}: {OWN_MODEL}")
    return module.weight
