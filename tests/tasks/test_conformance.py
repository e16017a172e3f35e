"""Every task holds the contract of tasks, on a tiny encoder."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from scipy.stats import spearmanr
from seqeval.metrics import f1_score as entity_f1
from sklearn.metrics import f1_score
from transformers import BertConfig, BertModel, BertTokenizer

from stillhouse.losses import BernoulliKL, EmbeddingCosine, EmbeddingMSE, LogitMSE, Loss
from stillhouse.metrics import squad_metrics
from stillhouse.tasks import (
    TASKS,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SentenceEmbedding,
    Task,
    TextClassification,
    TokenClassification,
)
from stillhouse.tasks.pretrained import quiet_transformers
from stillhouse.testing.tasks import TaskSuite

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##b", "##c"]
MAX_LENGTH = 30

Row = dict[str, Any]


def words(draw: random.Random, most: int = 12) -> list[str]:
    """Some of them are two pieces; no vocabulary has "z"."""
    return draw.choices([*"abcdefghij", "ab", "ac", "z"], k=draw.randint(3, most))


def share_of(key: str, said: Sequence[Row], gold: Sequence[Any]) -> float:
    """The share of examples in which what is said under the key is right."""
    return sum(one[key] == label for one, label in zip(said, gold, strict=True)) / len(gold)


def text(draw: random.Random, most: int = 12) -> str:
    return " ".join(words(draw, most))


class _Suite(TaskSuite):
    """Three files of rows that ``make_row`` draws."""

    changes: ClassVar[Mapping[str, Any]] = {"max_length": MAX_LENGTH - 1}
    kind: ClassVar[type[Task[Any]]]
    settings: ClassVar[Mapping[str, Any]] = {}

    def make_row(self, draw: random.Random, split: str) -> Row:
        raise NotImplementedError

    def make_task(self, folder: Path) -> Task[Any]:
        files = {}
        for split, count in (("train", 14), ("validation", 5), ("test", 7)):
            draw = random.Random(split)
            rows = [json.dumps(self.make_row(draw, split), ensure_ascii=False) + "\n" for _ in range(count)]
            (folder / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")
            files[split] = str(folder / f"{split}.jsonl")
        task = self.kind(self.kind.data.of(**files, max_length=MAX_LENGTH, **self.settings))
        task.load()
        return task

    def make_checkpoint(self, folder: Path) -> None:
        config = BertConfig(vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=8, max_position_embeddings=32, initializer_range=0.5)
        with quiet_transformers():
            BertModel(config).save_pretrained(folder)
            BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)


class TestTextClassification(_Suite):
    kind = TextClassification
    settings: ClassVar[Mapping[str, Any]] = {"text_pair": "pair", "label_names": ("x", "y", "z")}

    def make_row(self, draw: random.Random, split: str) -> Row:
        return {"text": text(draw), "pair": text(draw), "label": draw.choice("xyz")}

    def metric_of(self, said: Sequence[Row], gold: Sequence[Any]) -> float:
        return share_of("label", said, gold)


class TestSeveralLabels(_Suite):
    kind = TextClassification
    settings: ClassVar[Mapping[str, Any]] = {"labels": "multi", "label_names": ("x", "y", "z")}

    def make_row(self, draw: random.Random, split: str) -> Row:
        return {"text": text(draw), "label": draw.sample("xyz", draw.randrange(4))}

    def metric_of(self, said: Sequence[Row], gold: Sequence[Any]) -> float:
        marks = [[[name in names for name in "xyz"] for names in rows]
                 for rows in (gold, [one["labels"] for one in said])]
        return float(f1_score(*marks, average="micro"))

    def make_kd_losses(self, task: Task[Any]) -> dict[str, Loss]:
        return {"bernoulli_kl": BernoulliKL(2.0), "mse": LogitMSE()}


class TestRegression(_Suite):
    kind = TextClassification
    settings: ClassVar[Mapping[str, Any]] = {"labels": "regression"}

    def make_row(self, draw: random.Random, split: str) -> Row:
        return {"text": text(draw), "label": draw.random()}

    def metric_of(self, said: Sequence[Row], gold: Sequence[Any]) -> float:
        return float(spearmanr([one["score"] for one in said], gold).statistic)

    def make_kd_losses(self, task: Task[Any]) -> dict[str, Loss]:
        return {"mse": LogitMSE()}


class TestEntities(_Suite):
    kind = TokenClassification
    settings: ClassVar[Mapping[str, Any]] = {"label_names": ("O", "B-X", "I-X")}

    def make_row(self, draw: random.Random, split: str) -> Row:
        tokens = [*words(draw), *draw.choice([[], ["\u200b"]])]  # the last has no piece
        return {"tokens": tokens, "tags": [draw.choice(["O", "B-X", "I-X"]) for _ in tokens]}

    def metric_of(self, said: Sequence[Row], gold: Sequence[Any]) -> float:
        return float(entity_f1(list(gold), [one["tags"] for one in said]))


class TestPartsOfSpeech(_Suite):
    kind = TokenClassification
    settings: ClassVar[Mapping[str, Any]] = {"label_names": ("noun", "verb", "other")}

    def make_row(self, draw: random.Random, split: str) -> Row:
        tokens = words(draw)
        return {"tokens": tokens, "tags": [draw.randrange(3) for _ in tokens]}

    def metric_of(self, said: Sequence[Row], gold: Sequence[Any]) -> float:
        pairs = [pair for one, tags in zip(said, gold, strict=True) for pair in zip(one["tags"], tags, strict=True)]
        return sum(ours == right for ours, right in pairs) / len(pairs)


class TestMultipleChoice(_Suite):
    kind = MultipleChoice

    def make_row(self, draw: random.Random, split: str) -> Row:
        return {"question": text(draw), "choices": [text(draw, 5) for _ in range(3)], "label": draw.choice("ABC")}

    def metric_of(self, said: Sequence[Row], gold: Sequence[Any]) -> float:
        return share_of("choice", said, gold)


class TestQuestionAnswering(_Suite):
    kind = QuestionAnswering
    settings: ClassVar[Mapping[str, Any]] = {"stride": 3, "max_question_length": 6, "max_answer_length": 5}
    changes: ClassVar[Mapping[str, Any]] = {"max_length": 29, "stride": 2, "max_question_length": 4,
                                            "max_answer_length": 4, "no_answer": True, "language": "zh"}

    def make_row(self, draw: random.Random, split: str) -> Row:
        found = [words(draw) for _ in range(3)]
        context = " ".join(" ".join(part) for part in found)  # up to three windows
        start = len(" ".join(found[0])) + 1
        answer = {"text": [" ".join(found[1][:2])], "answer_start": [start]}
        return {"question": text(draw, 6), "context": context, "answers": answer}

    def metric_of(self, said: Sequence[Row], gold: Sequence[Any]) -> float:
        return squad_metrics([one["answer"] for one in said], list(gold))["f1"]


class TestQuestionsWithoutAnAnswer(TestQuestionAnswering):
    """All have one, but not all windows do."""

    settings: ClassVar[Mapping[str, Any]] = {**TestQuestionAnswering.settings, "no_answer": True}
    changes: ClassVar[Mapping[str, Any]] = {**TestQuestionAnswering.changes, "no_answer": False}


class TestSentenceEmbedding(_Suite):
    kind = SentenceEmbedding
    changes: ClassVar[Mapping[str, Any]] = {"max_length": 29, "pooling": "cls", "normalize": False}

    def make_row(self, draw: random.Random, split: str) -> Row:
        if split == "train":
            return {"text": text(draw)}
        return {"sentence1": text(draw), "sentence2": text(draw), "score": draw.random()}

    def metric_of(self, said: Sequence[Row], gold: Sequence[Any]) -> float:
        return float(spearmanr([one["score"] for one in said], gold).statistic)

    def make_kd_losses(self, task: Task[Any]) -> dict[str, Loss]:
        return {"cosine": EmbeddingCosine(), "mse": EmbeddingMSE()}


class TestMaskedLM(_Suite):
    kind = MaskedLM
    settings: ClassVar[Mapping[str, Any]] = {"pack": False}
    changes: ClassVar[Mapping[str, Any]] = {"max_length": 29, "mask_share": 0.3, "whole_word": True, "pack": True}

    def make_row(self, draw: random.Random, split: str) -> Row:
        return {"text": text(draw)}


class TestPackedWholeWords(TestMaskedLM):
    settings: ClassVar[Mapping[str, Any]] = {"pack": True, "whole_word": True}
    changes: ClassVar[Mapping[str, Any]] = {"max_length": 29, "mask_share": 0.3, "whole_word": False, "pack": False}


SUITES: dict[str, list[type[_Suite]]] = {
    "text-classification": [TestTextClassification, TestSeveralLabels, TestRegression],
    "token-classification": [TestEntities, TestPartsOfSpeech],
    "multiple-choice": [TestMultipleChoice],
    "question-answering": [TestQuestionAnswering, TestQuestionsWithoutAnAnswer],
    "sentence-embedding": [TestSentenceEmbedding],
    "masked-lm": [TestMaskedLM, TestPackedWholeWords],
}


def test_the_settings_that_name_columns_are_listed() -> None:
    for task in TASKS.values():
        first = {name: (field.description or "").partition(" with ")[0]
                 for name, field in task.data.model_fields.items()}
        columns = {name for name, words in first.items() if words.endswith((" column", " columns"))}
        assert columns == set(task.data.name_columns), task.name


def test_every_task_is_held_to_the_contract() -> None:
    assert set(SUITES) == set(TASKS)
    for name, suites in SUITES.items():
        assert all(suite.kind is TASKS[name] for suite in suites)
