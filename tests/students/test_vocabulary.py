"""Promises of a trimmed vocabulary, over the encoder families, each with a tokenizer of its own algorithm."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from stillhouse.students.vocabulary import Vocabulary, plan_trimming, trim_embeddings

from .family_tokenizers import DATA, OTHER, TOKENIZERS, UNSEEN, logits, make_model, spelled, trimmed_to


def test_the_vocabulary_becomes_smaller_and_keeps_its_order(
        tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    assert len(vocabulary.kept) == len(vocabulary.tokenizer) < len(tokenizer)
    assert list(vocabulary.kept) == sorted(set(vocabulary.kept))
    for new, old in enumerate(vocabulary.kept):
        assert vocabulary.new_ids[old] == new
        assert vocabulary.tokenizer.convert_ids_to_tokens(new) == tokenizer.convert_ids_to_tokens(old)


def test_the_datas_texts_and_pairs_become_the_same_tokens(
        tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    for first in DATA:
        assert spelled(vocabulary.tokenizer, first) == spelled(tokenizer, first)
        for second in DATA:
            old, new = tokenizer(first, second), vocabulary.tokenizer(first, second)
            assert new["input_ids"] == [vocabulary.new_ids[number] for number in old["input_ids"]]
            assert {k: v for k, v in new.items() if k != "input_ids"} == {
                k: v for k, v in old.items() if k != "input_ids"}


def test_any_choice_of_words_as_data_becomes_the_same_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    words = sorted({word for text in (*DATA, *UNSEEN) for word in text.split()})
    for seed in range(10):
        data = [" ".join(random.Random(seed).sample(words, 5)) for _ in range(2)]
        new = trimmed_to(tokenizer, data).tokenizer
        assert [spelled(new, text) for text in data] == [spelled(tokenizer, text) for text in data]


def test_special_tokens_and_settings_stay(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    new = vocabulary.tokenizer
    assert type(new) is type(tokenizer)
    assert new.special_tokens_map == tokenizer.special_tokens_map
    assert new.all_special_ids == [vocabulary.new_ids[number] for number in tokenizer.all_special_ids]
    assert (new.model_max_length, new.padding_side, new.model_input_names, new.name_or_path) == (
        tokenizer.model_max_length, tokenizer.padding_side, tokenizer.model_input_names, tokenizer.name_or_path)
    text = f"the {tokenizer.mask_token} is open"
    assert new.mask_token_id in new(text)["input_ids"]


def test_the_logits_are_unchanged(family: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    model = make_model(family, tokenizer)
    single, pairs = logits(model, tokenizer, DATA), logits(model, tokenizer, DATA, DATA[::-1])
    before = sum(parameter.numel() for parameter in model.parameters())
    rows, width = model.get_input_embeddings().weight.shape
    trim_embeddings(model, vocabulary)
    after = sum(parameter.numel() for parameter in model.parameters())
    assert before - after == (rows - len(vocabulary.kept)) * width
    assert torch.equal(logits(model, vocabulary.tokenizer, DATA), single)
    assert torch.equal(logits(model, vocabulary.tokenizer, DATA, DATA[::-1]), pairs)


def test_saved_and_loaded_the_ids_and_logits_are_the_same(
        family: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = make_model(family, tokenizer)
    expected = logits(model, tokenizer, DATA, DATA[::-1])
    trim_embeddings(model, vocabulary)
    model.save_pretrained(tmp_path)
    vocabulary.tokenizer.save_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for text in (*DATA, *UNSEEN):
        assert loaded_tokenizer(text, DATA[0])["input_ids"] == vocabulary.tokenizer(text, DATA[0])["input_ids"]
    assert torch.equal(logits(loaded, loaded_tokenizer, DATA, DATA[::-1]), expected)


def test_other_texts_stay_readable(family: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    new = vocabulary.tokenizer
    for text in UNSEEN:
        ids = new(text)["input_ids"]
        assert all(0 <= number < len(vocabulary.kept) for number in ids)
    for text in (OTHER[0], OTHER[2], OTHER[6]):  # all their characters are pieces
        text = text.lower()
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
        assert new.unk_token_id not in new(text)["input_ids"]


def test_ideographs_are_kept_only_if_used() -> None:
    tokenizer = TOKENIZERS["bert"]()
    kept = set(trimmed_to(tokenizer, DATA).tokenizer.get_vocab())
    assert {"天", "气", "ß", "##w"} <= kept
    assert "电" in tokenizer.get_vocab()
    assert "电" not in kept


def test_a_minimum_keeps_the_lowest_other_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    least = len(vocabulary.kept)
    assert trimmed_to(tokenizer, DATA, minimum=least).kept == vocabulary.kept
    more = trimmed_to(tokenizer, DATA, minimum=least + 5)
    assert least + 5 <= len(more.kept) < least + 15
    assert set(vocabulary.kept) < set(more.kept)
    assert spelled(more.tokenizer, DATA[0]) == spelled(tokenizer, DATA[0])
    first_other = min(set(tokenizer.get_vocab().values()) - set(vocabulary.kept))
    assert first_other in more.kept
    assert trimmed_to(tokenizer, DATA, minimum=10**6).kept == tuple(sorted(tokenizer.get_vocab().values()))


def test_a_language_models_head_is_cut_with_its_embeddings(
        family: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = make_model(family, tokenizer, "MaskedLM")
    expected = logits(model, tokenizer, DATA)[..., list(vocabulary.kept)]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    trim_embeddings(model, vocabulary)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_output_embeddings().out_features == len(vocabulary.kept)
    torch.testing.assert_close(logits(model, vocabulary.tokenizer, DATA), expected)
    batch = vocabulary.tokenizer(list(DATA), padding=True, return_tensors="pt")
    assert torch.isfinite(model(**batch, labels=batch["input_ids"]).loss)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded, vocabulary.tokenizer, DATA), expected)


@pytest.mark.parametrize("family", ["bert", "roberta"], scope="module")
def test_an_untied_head_is_cut_on_its_own(
        family: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = make_model(family, tokenizer, "MaskedLM", tie_word_embeddings=False)
    expected = logits(model, tokenizer, DATA)[..., list(vocabulary.kept)]
    trim_embeddings(model, vocabulary)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded, vocabulary.tokenizer, DATA), expected)


def test_ids_in_the_configuration_follow(
        family: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    model = make_model(family, tokenizer)
    trim_embeddings(model, vocabulary)
    new = vocabulary.tokenizer
    assert (model.config.vocab_size, model.config.pad_token_id, model.config.bos_token_id,
            model.config.eos_token_id) == (len(new), new.pad_token_id, new.cls_token_id, new.sep_token_id)
    embeddings = model.get_input_embeddings()
    assert (embeddings.num_embeddings, embeddings.padding_idx) == (len(new), new.pad_token_id)
    assert embeddings.weight.requires_grad


def test_special_tokens_behind_all_others_move() -> None:
    tokenizer = TOKENIZERS["modernbert"]()
    vocabulary = trimmed_to(tokenizer, DATA)
    assert vocabulary.tokenizer.pad_token_id == vocabulary.new_ids[tokenizer.pad_token_id] != tokenizer.pad_token_id


def test_a_frozen_embedding_stays_frozen_and_ids_of_lost_tokens_are_unset() -> None:
    tokenizer = TOKENIZERS["bert"]()
    vocabulary = trimmed_to(tokenizer, DATA)
    lost = next(number for number in range(len(tokenizer)) if number not in vocabulary.new_ids)
    model = make_model("bert", tokenizer)
    model.config.eos_token_id = [lost, tokenizer.sep_token_id]
    model.config.bos_token_id = lost
    model.get_input_embeddings().weight.requires_grad_(False)
    trim_embeddings(model, vocabulary)
    assert not model.get_input_embeddings().weight.requires_grad
    assert model.config.bos_token_id is None
    assert model.config.eos_token_id == [vocabulary.tokenizer.sep_token_id]


def test_trimming_draws_nothing_and_leaves_the_old_tokenizer(
        family: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    model, used = make_model(family, tokenizer), tokenizer(DATA[0])["input_ids"]
    before, state = tokenizer.backend_tokenizer.to_str(), torch.get_rng_state()
    plan_trimming(tokenizer, used)
    trim_embeddings(model, vocabulary)
    assert torch.equal(torch.get_rng_state(), state)
    assert tokenizer.backend_tokenizer.to_str() == before
