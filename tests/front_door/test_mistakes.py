"""Mistakes of a user of Python are found before anything is written, and told in the user's words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

import stillhouse
from stillhouse.cache_dirs import given_dir
from stillhouse.errors import ConfigError, DataError, PlanError

from .conftest import NAMES, Values


@pytest.fixture(autouse=True)
def nothing_was_run() -> Iterator[None]:
    yield
    assert not Path("runs").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"techer": "x"}, "unknown keyword 'techer': did you mean 'teacher'"),
    ({"lable": "colour"}, "unknown keyword 'lable': did you mean 'label'"),
    ({"tempreature": 3}, "unknown keyword 'tempreature': did you mean 'temperature'. That is a setting of "
                         r"distillation; write distillation=\{'temperature': 3\}"),
    ({"epoch": 3}, r"did you mean 'epochs'. That is a setting of training; write training=\{'epochs': 3\}"),
    ({"stages": []}, "unknown keyword 'stages': only a recipe with several stages has it; leave it out, or write"),
    ({"epochs": 3}, r"epochs: that is a setting of training; write training=\{'epochs': 3\}"),
    ({"temperature": 4}, r"a setting of distillation; write distillation=\{'temperature': 4\}"),
    ({"tags": "ner"}, "tags: the data of text-classification has no such key; it is one of token-classification"),
    ({"task": "text-clasification"}, "unknown task 'text-clasification': did you mean 'text-classification'"),
    ({"data": {"label": "mood"}}, "label is given twice, as label='colour' and in data"),
    ({"data": {"train": "x.csv"}}, "splits are given beside data, as train="),
    ({"data": "colour"}, "data: 'colour' is of type str; give a mapping"),
    ({"training": {"epoch": 3}}, r"training.epoch: unknown key; did you mean 'epochs'"),
    ({"training": {"seed": 1}, "seed": 2}, "seed is given twice"),
    ({"cache": "memry"}, "cache: 'memry': did you mean memory"),
    ({"resume": True}, r"resume=True needs output=\.\.\."),
    ({"output": "x", "resume": True, "overwrite": True}, "give resume=True or overwrite=True, not both"),
])
def test_a_wrong_keyword_is_named_with_what_is_allowed(changes: Values, message: str, arguments: Values) -> None:
    with pytest.raises(ConfigError, match=message):
        stillhouse.distill(**(arguments | changes))
    assert not given_dir().exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"teacher": nn.Linear(2, 2)}, "teacher: a Linear is no PreTrainedModel.*stillhouse.GeneralDistiller"),
    ({"student": nn.Linear(2, 2)}, "student: a Linear is no PreTrainedModel"),
    ({"teacher": 5}, "teacher: 5 is of type int; give a hub id, a folder, a PreTrainedModel, a list"),
    ({"teacher": BertModel}, "is of type type; give a hub id, a folder"),
    ({"teacher": []}, "teacher: .* is no list of models"),
    ({"student": None}, "student: None is of type NoneType; give .* StudentSpec, one of T6"),
    ({"student": "T33"}, "student: unknown shape 'T33': did you mean 'T3'"),
    ({"student": {"kep": 2}}, "kep: unknown key; did you mean 'keep'"),
    ({"teacher": "no/such"}, "tokenizer: no effect, since no model that it would belong to is given as an object"),
    ({"tokenizer": None}, r"give tokenizer=\.\.\. \(the model does not say where it was loaded from\)"),
    ({"tokenizer": print}, "tokenizer: .* is of type builtin_function_or_method; give a tokenizer"),
    ({"tokenizer": "./no-such-folder"}, "there is no folder"),
])
def test_what_is_no_model_is_refused(changes: Values, message: str, arguments: Values) -> None:
    with pytest.raises(ConfigError, match=message):
        stillhouse.distill(**(arguments | changes))


@pytest.mark.parametrize(("train", "error", "message"), [
    (3, ConfigError, "train: 3 is of type int; give a path or hub id, a datasets.Dataset"),
    ({"text": ["a"], "colour": ["red"]}, ConfigError, "one of them 'train'; got 'text', 'colour'.*from_dict"),
    ([{"text": "a", "colour": "red"}, 5], ConfigError, "train, row 2: 5 is of type int; a row is a mapping"),
    ([{"text": "a", "colour": {1, 2}}], DataError, "train, row 1: .* is of type set; give texts, numbers"),
    ([], DataError, "train: there are no rows"),
    ([{"sentence": "a b", "colour": "red"}], DataError, "train: unknown column 'text'.* Known: colour, sentence"),
    (["a b", "b c"], DataError, "train: unknown column 'colour'.* Known: text$"),
    ([{"colour": "red", "étiquette du texte": "a"}], DataError,
     r"train: unknown column 'text'\. Known: .*; that is what data\.text is unless you say otherwise: name yours "
     r"with text: \.\.\. \(in Python text=\.\.\.;"),
    ([{"text": "a b", "colour": "red"}, {"text": None, "colour": "red"}], DataError, "train, row 2.*there is no text"),
])
def test_what_is_no_data_is_refused(train: Any, error: type[Exception], message: str, arguments: Values) -> None:
    with pytest.raises(error, match=message):
        stillhouse.distill(**(arguments | {"train": train}))


def test_a_stream_is_refused(arguments: Values, rows: dict[str, list[Values]]) -> None:
    stream = datasets.Dataset.from_list(rows["train"]).to_iterable_dataset()
    with pytest.raises(ConfigError, match=r"an IterableDataset can be read only once.*from_list\(list\(data\)\)"):
        stillhouse.distill(**(arguments | {"train": stream}))


def test_splits_whose_numbers_mean_other_labels_are_refused(
    arguments: Values, rows: dict[str, list[Values]],
) -> None:
    def as_classes(split: str, names: list[str]) -> datasets.Dataset:
        return datasets.Dataset.from_list(rows[split]).cast_column("colour", datasets.ClassLabel(names=names))

    splits = {"train": as_classes("train", NAMES), "test": as_classes("test", NAMES[::-1])}
    with pytest.raises(DataError, match="test, column 'colour': its numbers stand for red, green, blue, but those of "
                                        "train for blue, green, red"):
        stillhouse.distill(**(arguments | splits))


def test_a_teacher_without_a_head_is_told_by_what_it_is_called(
    arguments: Values, teacher: BertForSequenceClassification,
) -> None:
    with pytest.raises(PlanError, match="'the given teacher' has no trained head"):
        stillhouse.distill(**(arguments | {"teacher": teacher.bert}))


def test_a_teacher_of_other_labels_is_refused(arguments: Values, teacher: BertForSequenceClassification) -> None:
    labels = {"id2label": {0: "yes", 1: "no"}, "label2id": {"yes": 0, "no": 1}}
    other = BertForSequenceClassification(BertConfig(**{**teacher.config.to_dict(), **labels}))
    with pytest.raises(PlanError, match="model 'the given teacher' classifies into 2 labels"):
        stillhouse.distill(**(arguments | {"teacher": other}))
