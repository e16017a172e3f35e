"""Promises of token classification: a tag at each word's first piece, and every word judged, seen or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from seqeval.metrics import f1_score
from transformers import BertTokenizer, RobertaTokenizer

from stillhouse.errors import ConfigError, DataError, OutputError
from stillhouse.tasks import TokenClassification, TokenClassificationData
from stillhouse.types import LOGITS

Write = Callable[..., str]
NAMES = ("O", "B-PER", "I-PER")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##b", "##c", "北", "京"]
ROWS = [
    {"tokens": ["abc", "d", "\u200b", "e"], "tags": ["B-PER", "I-PER", "O", "O"]},
    {"tokens": ["d"], "tags": ["O"]},
    {"tokens": ["北", "京", "z"], "tags": ["B-PER", "I-PER", "B-PER"]},
]


def tokenizer(**options: Any) -> BertTokenizer:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, **options)


def loaded(write: Write, *rows: Any, **settings: Any) -> TokenClassification:
    path = write("rows.jsonl", *(rows or ROWS))
    settings = {"max_length": 12, "label_names": NAMES, **settings}
    task = TokenClassification(TokenClassificationData.of(train=path, validation=path, **settings))
    task.load()
    return task


def said(rows: Sequence[int], tags: Sequence[Sequence[int]], length: int) -> tuple[list[int], dict[Any, Any]]:
    """Logits of a batch, whose largest are the given tags of each token."""
    wanted = torch.tensor([[*row, *[2] * (length - len(row))] for row in tags])
    return list(rows), {LOGITS: torch.nn.functional.one_hot(wanted, len(NAMES)).float()}


def test_the_tag_is_at_the_first_piece_of_each_word_and_nowhere_else(write: Write) -> None:
    encoded = loaded(write).encode("train", tokenizer())
    assert tokenizer().convert_ids_to_tokens(encoded.tokens["input_ids"][0]) == [
        "[CLS]", "a", "##b", "##c", "d", "e", "[SEP]"]
    assert encoded.tokens["labels"][0] == [-100, 1, -100, -100, 2, 0, -100]
    assert encoded.tokens["logits_mask"][0] == [0, 1, 0, 0, 1, 1, 0]
    assert encoded.tokens["labels"][2] == [-100, 1, 2, 1, -100], "characters that are words, and an unknown word"
    assert set(encoded.batch([0, 1, 2])) == {"input_ids", "token_type_ids", "attention_mask", "labels", "logits_mask"}


def test_padding_has_no_label_and_is_not_compared(write: Write) -> None:
    batch = loaded(write).encode("train", tokenizer()).batch([0, 1])
    assert batch["labels"][1].tolist() == [-100, 0, -100, -100, -100, -100, -100]
    assert batch["logits_mask"][1].tolist() == [0, 1, 0, 0, 0, 0, 0]


def test_rows_without_tags_are_still_compared_with_the_teacher(write: Write) -> None:
    task = loaded(write)
    rows = task.split("train")
    encoded, known = (task.encoded(examples, tokenizer()) for examples in (
        type(rows)({"tokens": rows["tokens"], "tags": [None] * 3}), rows))
    assert all(set(labels) == {-100} for labels in encoded.tokens["labels"])
    assert encoded.tokens["logits_mask"] == known.tokens["logits_mask"]
    judgement = task.judged(encoded, iter([said([0, 1, 2], [[0]] * 3, 7)]))
    assert [len(one["tags"]) for one in judgement.said] == [len(words) for words in rows["tokens"]]
    with pytest.raises(DataError, match="3 of 3 rows have no tags"):
        _ = judgement.metrics


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_are_judged_in_order_and_those_not_seen_as_outside(write: Write, side: str) -> None:
    task = loaded(write)
    encoded = task.encode("train", tokenizer(padding_side=side))

    def logits(row: int, tags: list[int], length: int) -> list[int]:
        padding = [1] * (length - len(tags))
        return padding + tags if side == "left" else tags + padding

    outputs = [said([2, 1], [logits(2, [2, 1, 2, 1, 2], 5), logits(1, [1, 2, 1], 5)], 5),
               said([0], [[0, 1, 0, 0, 2, 1, 0]], 7)]
    judgement = task.judged(encoded, iter(outputs))
    assert judgement.answers.tolist() == [1, 2, 0, 1, 2, 1, 2, 1]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["I-PER"], ["B-PER", "I-PER", "B-PER"]]
    wanted = [row["tags"] for row in ROWS]
    assert judgement.metrics["f1"] == pytest.approx(f1_score(wanted, predicted))
    assert judgement.metrics["token_accuracy"] == pytest.approx(6 / 8)
    assert task.metric == "f1" and set(judgement.metrics) == {"precision", "recall", "f1", "token_accuracy"}


def test_words_that_are_cut_off_are_counted_and_judged_as_outside(write: Write) -> None:
    task = loaded(write, max_length=5)
    with pytest.warns(UserWarning, match=r"max_length of 5 cuts off 3 of 8 words, in 1 of 3 rows"):
        encoded = task.encode("train", tokenizer())
    assert encoded.tokens["labels"][0] == [-100, 1, -100, -100, -100]
    outputs = said([0, 1, 2], [[2] * 5, [2] * 5, [2] * 5], 5)
    assert task.judged(encoded, iter([outputs])).answers.tolist() == [2, 0, 0, 0, 2, 2, 2, 2]


def test_tags_that_mark_no_entities_are_scored_as_classes(write: Write) -> None:
    rows = [{"tokens": ["a", "b", "\u200b"], "tags": ["verb", "noun", "noun"]},
            {"tokens": ["c"], "tags": ["verb"]}]
    task = loaded(write, *rows, label_names=None)
    assert task.label_names == ("noun", "verb") and task.metric == "accuracy"
    encoded = task.encode("train", tokenizer())
    rows_said, features = said([0, 1], [[0, 1, 1, 0], [0, 0, 0, 0]], 4)
    judgement = task.judged(encoded, iter([(rows_said, {LOGITS: features[LOGITS][..., :2]})]))
    assert judgement.answers.tolist() == [1, 1, 0, 0], "without an O, a word that is not seen has the first tag"
    assert judgement.metrics == {"accuracy": 0.5, "macro_f1": pytest.approx((0.5 + 0.5) / 2)}


def test_tags_may_be_numbers_and_names_listed_in_a_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"ner": ["O", "B-PER", "I-PER"]}', encoding="utf-8")
    row = {"words": ["a", "b"], "ner": [1, 2]}
    task = loaded(write, row, tokens="words", tags="ner", label_names=str(tmp_path / "names.json"))
    assert (task.label_names, list(task.split("train")["tags"])) == (NAMES, [[1, 2]])


@pytest.mark.parametrize(("bad", "problem"), [
    ({"tokens": ["a", "b"], "tags": ["O"]}, "row 2, column 'tags': 1 tags for the 2 words in column 'tokens'"),
    ({"tokens": ["a"], "tags": ["O", "O"]}, "row 2, column 'tags': 2 tags for the 1 words"),
    ({"tokens": "a b", "tags": ["O", "O"]}, "row 2, column 'tokens': 'a b' is no list of texts"),
    ({"tokens": [], "tags": []}, r"row 2, column 'tokens': \[\] is no list of texts"),
    ({"tokens": ["a", 3], "tags": ["O", "O"]}, r"row 2, column 'tokens': \['a', 3\] is no list of texts"),
    ({"tokens": ["a"], "tags": "O"}, "row 2, column 'tags': 'O' is no list of labels"),
    ({"tokens": ["a"], "tags": ["B-LOC"]}, "row 2, column 'tags': unknown label 'B-LOC'"),
    ({"tokens": ["a"], "tags": [3]}, "row 2, column 'tags': label 3 is outside 0 to 2"),
    ({"tokens": ["a"], "tags": [None]}, "row 2, column 'tags': there is no label"),
    ({"tokens": ["a"]}, "row 2, column 'tags': None is no list of labels"),
])
def test_a_bad_row_is_named(write: Write, bad: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        loaded(write, ROWS[0], bad)


def test_a_model_for_other_tags_is_not_judged(write: Write) -> None:
    task = loaded(write)
    encoded = task.encode("train", tokenizer())
    for shape in ((3, 7, 4), (3, 3)):
        with pytest.raises(OutputError, match=r"for 3 rows and 3 tags; load it with the task's load_model"):
            task.judged(encoded, iter([([0, 1, 2], {LOGITS: torch.zeros(shape)})]))


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_byte_level_tokenizers_see_words_as_in_a_text(write: Write, add_prefix_space: bool) -> None:
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abc", "Ġ", "Ġa", "Ġb", "Ġc"]
    roberta = RobertaTokenizer(vocab={word: number for number, word in enumerate(letters)},
                               merges=[("Ġ", "a"), ("Ġ", "b"), ("Ġ", "c")], add_prefix_space=add_prefix_space)
    encoded = loaded(write, {"tokens": ["a", "bc", "c"], "tags": ["B-PER", "I-PER", "O"]}).encode("train", roberta)
    assert encoded.tokens["input_ids"][0] == roberta("a bc c")["input_ids"]
    assert roberta.convert_ids_to_tokens(encoded.tokens["input_ids"][0]) == [
        "<s>", "Ġa" if add_prefix_space else "a", "Ġb", "c", "Ġc", "</s>"]
    assert encoded.tokens["labels"][0] == [-100, 1, 2, -100, 0, -100]


def test_a_tokenizer_that_does_not_know_its_words_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    task = loaded(write)
    monkeypatch.setattr(BertTokenizer, "is_fast", False)
    with pytest.raises(ConfigError, match="BertTokenizer does not tell which word a token is of; give a model with"):
        task.encode("train", tokenizer())


def test_the_names_are_the_models(write: Write, encoder: str) -> None:
    model = loaded(write).load_model(encoder)
    assert type(model).__name__ == "BertForTokenClassification"
    assert model.config.id2label == dict(enumerate(NAMES))
