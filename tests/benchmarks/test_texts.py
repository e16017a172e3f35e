"""Rows and vocabularies that are made up."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks import texts


def test_rows_are_repeated_with_their_words_turned_round() -> None:
    rows = [{"sentence": "a b c", "label": 1}, {"sentence": "d", "label": 0}]
    found = texts.varied(rows, 5)
    assert [row["sentence"] for row in found] == ["a b c", "d", "b c a", "d", "c a b"]
    assert [row["label"] for row in found] == [1, 0, 1, 0, 1]


def test_a_vocabulary_holds_the_frequent_words_first_and_no_word_twice() -> None:
    own = next(texts.made_up_words())
    words = texts.vocabulary(["it is it", own], 10)
    assert words[0] == "it" and set(words[1:3]) == {"is", own}
    assert len(words) == len(set(words)) == 10
    assert len(set(islice(texts.made_up_words(), texts.BERT_VOCABULARY))) == texts.BERT_VOCABULARY


def test_each_made_up_word_is_one_token(tmp_path: Path) -> None:
    words = texts.vocabulary([], 100)
    assert texts.write_word_tokenizer(tmp_path, words) == 105
    lengths = [1, 30, 4]
    rows = texts.made_up_rows(lengths, words)
    ids = AutoTokenizer.from_pretrained(tmp_path)([row["sentence"] for row in rows])["input_ids"]
    assert [len(row) - 2 for row in ids] == lengths
    assert 1 not in {token for row in ids for token in row}  # no unknown word


def test_lengths_are_about_those_of_sst2() -> None:
    lengths = texts.short_lengths(5000)
    assert min(lengths) >= 1 and max(lengths) <= 50
    assert 8 < sum(lengths) / len(lengths) < 11
