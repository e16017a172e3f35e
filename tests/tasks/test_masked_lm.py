"""Promises of masked language modelling: rows packed as said, masks a function of epoch and row, honest counts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertForMaskedLM, BertTokenizer, PreTrainedTokenizerBase

from stillhouse.errors import ConfigError, DataError, OutputError
from stillhouse.losses import HardLabels
from stillhouse.tasks import TASKS, EncodedSplit, MaskedLM, MaskedLMData
from stillhouse.tasks.pretrained import quiet_transformers
from stillhouse.types import LABELS, LOGITS

from .conftest import WORDS, tiny_config

Write = Callable[..., str]
PAD, UNK, CLS, SEP, MASK = range(5)


def lines(count: int, longest: int = 20, seed: int = 0) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [{"text": " ".join(draw.choices("abcdefghij", k=draw.randint(1, longest)))} for _ in range(count)]


@pytest.fixture
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


@pytest.fixture
def word_pieces() -> BertTokenizer:
    """Words of up to four pieces: "a", "ab", "abc" and "abcd" are one, two, three and four."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcde", "##b", "##c", "##d"]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


@pytest.fixture
def model(tmp_path: Path) -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(tiny_config()).eval()


@pytest.fixture
def made(write: Write) -> Callable[..., MaskedLM]:
    def load(**changes: Any) -> MaskedLM:
        values = {"train": write("train.jsonl", *lines(60)), "validation": write("validation.jsonl", *lines(9, seed=1)),
                  "max_length": 16, **changes}
        task = MaskedLM(MaskedLMData.of(**values))
        task.load()
        return task

    return load


def original(batch: dict[str, Tensor]) -> Tensor:
    return torch.where(batch["labels"].ge(0), batch["labels"], batch["input_ids"])


def test_the_task_is_known_by_its_name_and_repeats_nothing() -> None:
    assert TASKS["masked-lm"] is MaskedLM
    assert not MaskedLM.repeats_inputs and not MaskedLM.answers_rows and MaskedLM.metric == "accuracy"


# Rows


def test_texts_are_packed_with_their_special_tokens_and_nothing_is_lost(made: Any, tokenizer: Any) -> None:
    task = made()
    encoded = task.encode("train", tokenizer)
    stream = list(chain.from_iterable(tokenizer(row["text"])["input_ids"] for row in lines(60)))
    assert list(chain.from_iterable(encoded.tokens["input_ids"])) == stream
    assert set(encoded.lengths[:-1]) == {16} and encoded.lengths[-1] == len(stream) % 16
    assert task.num_rows["train"] == 60 and len(encoded) == math.ceil(len(stream) / 16)


def test_without_packing_a_text_is_a_row(made: Any, tokenizer: Any) -> None:
    encoded = made(pack=False).encode("train", tokenizer)
    expected = [tokenizer(row["text"], truncation=True, max_length=16)["input_ids"] for row in lines(60)]
    assert [list(row) for row in encoded.tokens["input_ids"]] == expected
    assert encoded.lengths.max() == 16


def test_more_texts_than_are_tokenised_at_once_are_all_there(made: Any, write: Write, tokenizer: Any) -> None:
    task = made(train=write("many.jsonl", *lines(2500, longest=3)))
    encoded = task.encode("train", tokenizer)
    expected = chain.from_iterable(tokenizer(row["text"])["input_ids"] for row in lines(2500, longest=3))
    assert list(chain.from_iterable(encoded.tokens["input_ids"])) == list(expected)


def test_a_tokenizer_without_a_mask_token_is_refused(made: Any, tokenizer: Any) -> None:
    tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="hides words behind a mask token, and this tokenizer, a BertTokenizer, has"):
        made().encode("train", tokenizer)


def test_whole_words_need_a_tokenizer_that_knows_them(made: Any, tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(ConfigError, match=r"data.whole_word: a BertTokenizer does not say where words start"):
        made(whole_word=True).encode("train", tokenizer)


def test_rows_need_room_for_more_than_special_tokens(made: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"data.max_length is 2.*set it to 3 or more"):
        made(max_length=2).encode("train", tokenizer)


@pytest.mark.parametrize("changes", [{"mask_share": 0.2}, {"whole_word": True}, {"pack": False}, {"max_length": 20}])
def test_what_changes_the_rows_changes_the_fingerprint(made: Any, changes: dict[str, Any]) -> None:
    assert made(**changes).fingerprint != made().fingerprint


# Masks


def encoded_rows(made: Any, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> EncodedSplit:
    encoded: EncodedSplit = made(pack=False, **changes).encode("train", tokenizer)
    return encoded


@pytest.mark.parametrize("epoch", [None, 0, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_masks_of_a_row_are_the_same_in_any_batch(made: Any, tokenizer: Any, epoch: int | None, side: str) -> None:
    tokenizer.padding_side = side
    encoded = encoded_rows(made, tokenizer)
    together = encoded.batch(range(len(encoded)), epoch)
    for row in range(len(encoded)):
        alone = encoded.batch([row], epoch)
        kept = together["attention_mask"][row].ne(0)
        for name in ("input_ids", "labels", "logits_mask"):
            assert together[name][row][kept].equal(alone[name][0]), name
        assert together["labels"][row][~kept].eq(-100).all() and together["logits_mask"][row][~kept].eq(0).all()


def test_the_masks_differ_between_epochs_and_stay_in_evaluations(made: Any, tokenizer: Any) -> None:
    encoded = encoded_rows(made, tokenizer)
    rows = range(len(encoded))
    labels = [encoded.batch(rows, epoch)["labels"] for epoch in (None, 0, 1, 2)]
    for i, first in enumerate(labels):
        assert first.equal(encoded.batch(rows, (None, 0, 1, 2)[i])["labels"])
        assert not any(first.equal(second) for second in labels[i + 1:])
    assert all(original(encoded.batch(rows, epoch)).equal(original(encoded.batch(rows))) for epoch in (0, 1))


def test_no_global_generator_is_read_or_moved(made: Any, tokenizer: Any) -> None:
    encoded = encoded_rows(made, tokenizer)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = encoded.batch([0, 1, 2], 0)
    assert states[0].equal(torch.get_rng_state()) and states[2] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    torch.manual_seed(99)
    assert encoded.batch([0, 1, 2], 0)["input_ids"].equal(first["input_ids"])


def test_a_share_of_each_row_is_selected_and_at_least_one_token(made: Any, tokenizer: Any) -> None:
    encoded = encoded_rows(made, tokenizer, mask_share=0.25, max_length=32)
    for epoch in range(3):
        batch = encoded.batch(range(len(encoded)), epoch)
        selected = batch["labels"].ge(0)
        assert batch["logits_mask"].equal(selected.long())
        ordinary = original(batch).gt(MASK)
        assert not selected[~ordinary].any(), "special tokens and padding are never selected"
        wanted = [max(1, round(0.25 * int(count))) for count in ordinary.sum(dim=1)]
        assert selected.sum(dim=1).tolist() == wanted


def test_special_and_unknown_tokens_are_never_selected(made: Any, write: Write, tokenizer: Any) -> None:
    rows = [{"text": "xyz [MASK] xyz"}, {"text": "a xyz [SEP] xyz xyz [MASK]"}]
    encoded = made(train=write("rows.jsonl", *rows), pack=False, mask_share=0.9).encode("train", tokenizer)
    labels = encoded.batch([0, 1], 0)["labels"]
    assert labels[0].eq(-100).all() and labels[1].tolist().count(WORDS.index("a")) == 1 == int(labels[1].ge(0).sum())


def test_eight_in_ten_are_hidden_one_is_exchanged_and_one_stays(made: Any, tokenizer: Any) -> None:
    encoded = made(mask_share=0.5, max_length=64).encode("train", tokenizer)
    counts = {"hidden": 0, "stays": 0, "other": 0}
    for epoch in range(40):
        batch = encoded.batch(range(len(encoded)), epoch)
        for shown, label in zip(batch["input_ids"][batch["labels"].ge(0)].tolist(),
                                batch["labels"][batch["labels"].ge(0)].tolist(), strict=True):
            assert shown >= MASK, "a random token is never a special one"
            counts["hidden" if shown == MASK else "stays" if shown == label else "other"] += 1
    total = sum(counts.values())
    assert total > 8000
    assert counts["hidden"] / total == pytest.approx(0.8, abs=0.02)
    assert counts["stays"] / total == pytest.approx(0.1 + 0.1 / 10, abs=0.015)  # one random token in ten is the same
    assert counts["other"] / total == pytest.approx(0.1 - 0.1 / 10, abs=0.015)


@pytest.mark.parametrize("pack", [True, False])
def test_whole_words_are_selected_together(made: Any, write: Write, word_pieces: Any, pack: bool) -> None:
    draw = random.Random(0)
    rows = [{"text": " ".join(draw.choices(["a", "ab", "abc", "abcd", "e"], k=12))} for _ in range(30)]
    task = made(train=write("rows.jsonl", *rows), pack=pack, whole_word=True, max_length=24)
    encoded = task.encode("train", word_pieces)
    parts = 0
    for epoch in range(3):
        batch = encoded.batch(range(len(encoded)), epoch)
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "logits_mask"}
        for ids, labels in zip(original(batch).tolist(), batch["labels"].tolist(), strict=True):
            continues = [place for place in range(1, len(ids)) if ids[place] >= word_pieces.vocab["##b"]]
            assert all((labels[place] >= 0) == (labels[place - 1] >= 0) for place in continues)
            parts += sum(labels[place] >= 0 for place in continues)
    assert parts > 0
    selected, ordinary = batch["labels"].ge(0).sum(), original(batch).gt(MASK).sum()
    assert 0.1 < float(selected / ordinary) < 0.3


# Judging


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_accuracy_and_perplexity_are_those_of_the_hidden_tokens(made: Any, tokenizer: Any, model: Any,
                                                                batch_size: int) -> None:
    task = made(pack=False)
    encoded = task.encode("validation", tokenizer)
    found = task.evaluate(model, encoded, batch_size=batch_size)
    predicted, losses, right = [], [], []
    for row in range(len(encoded)):
        batch = encoded.batch([row])
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0]
        for place in batch["labels"][0].ge(0).nonzero().flatten().tolist():
            label = int(batch["labels"][0, place])
            predicted.append(int(logits[place].argmax()))
            losses.append(float(logits[place].logsumexp(dim=0) - logits[place, label]))
            right.append(predicted[-1] == label)
    assert found.answers.tolist() == predicted, "in the order of the rows"
    assert found.metrics == {"accuracy": sum(right) / len(right),
                             "perplexity": pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)}


def test_two_models_are_asked_the_same(made: Any, tokenizer: Any, model: Any) -> None:
    task = made()
    torch.manual_seed(1)
    other = BertForMaskedLM(tiny_config())
    ours, theirs = (task.evaluate(each, task.encode("validation", tokenizer)) for each in (model, other))
    assert 0 <= ours.agreement(theirs) <= 1 and ours.agreement(ours) == 1


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("pack", [True, False])
def test_texts_without_a_word_are_refused_before_anything_is_trained(made: Any, write: Write, tokenizer: Any,
                                                                     split: str, pack: bool) -> None:
    rows = [{"text": "xyz"}, {"text": "z [SEP]"}]
    task = made(**{split: write("rows.jsonl", *rows)}, pack=pack)
    with pytest.raises(DataError, match="in none of 2 texts, such as 'xyz', does the tokenizer know a word"):
        task.encode(split, tokenizer)
    one = made(**{split: write("one.jsonl", *rows, {"text": "xyz a"})}, pack=pack)
    batch = (encoded := one.encode(split, tokenizer)).batch(range(len(encoded)))
    assert batch["labels"].ge(0).sum() == 1


def test_answers_of_another_shape_are_refused(made: Any, tokenizer: Any) -> None:
    task = made()
    encoded = task.encode("validation", tokenizer)
    with pytest.raises(OutputError, match="ask it with the task's own adaptor"):
        task.judged(encoded, iter([([0, 1], {LOGITS: torch.zeros(2, 16, 15)})]))
    most = int(encoded.batch([0])["labels"].ge(0).sum())
    with pytest.raises(OutputError, match="the tokenizer is that of another model"):
        task.judged(encoded, iter([([0], {LOGITS: torch.zeros(1, most, 5)})]))


def test_the_hard_loss_is_the_cross_entropy_of_the_hidden_tokens(made: Any, tokenizer: Any, model: Any) -> None:
    task = made()
    batch = task.encode("train", tokenizer).batch([0, 1, 2], 0)
    signals = task.adaptor().run(model, batch, frozenset({LOGITS, LABELS}), {})
    loss = task.hard_loss()
    assert isinstance(loss, HardLabels)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}
    count = int(batch["labels"].ge(0).sum())
    torch.testing.assert_close(loss(signals.features, {}, signals.masks) / count, model(**inputs).loss)


def test_a_model_with_a_head_keeps_it(made: Any, model: Any, tmp_path: Path) -> None:
    with quiet_transformers():
        model.save_pretrained(tmp_path / "saved")
    loaded = made().load_model(str(tmp_path / "saved"))
    assert type(loaded) is BertForMaskedLM and made().model_wanted.fits(loaded.config)
    assert all(value.equal(model.state_dict()[name]) for name, value in loaded.state_dict().items())
