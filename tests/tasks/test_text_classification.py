"""Promises of text classification: data checked, rows encoded as a tokenizer does alone, answers judged row by row."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.errors import ConfigError, DataError, OutputError
from stillhouse.tasks import TASKS, DataSpec, TextClassification

Write = Callable[..., str]


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices("abcdefghij", k=draw.randint(1, 12))) for _ in range(count)]
    return [{"text": text, "other": text[::-1][:5], "label": f"starts {text[0] in 'abcde'}"} for text in texts]


def loaded(spec: DataSpec) -> TextClassification:
    task = TextClassification(spec)
    task.load()
    return task


@pytest.fixture
def spec(write: Write) -> DataSpec:
    return DataSpec(
        train=write("train.jsonl", *rows(40)),
        validation=write("validation.jsonl", *rows(11, 1)),
        test=write("test.jsonl", *rows(7, 2)),
        max_length=16,
    )


def test_the_task_is_known_by_its_name() -> None:
    assert TASKS["text-classification"] is TextClassification
    assert TextClassification.metric == "accuracy"


def test_all_splits_are_read(spec: DataSpec) -> None:
    task = loaded(spec)
    assert task.num_rows == {"train": 40, "validation": 11, "test": 7}
    assert task.label_names == ("starts False", "starts True")


def test_without_validation_a_tenth_of_train_is_held_out_and_trained_on_by_nobody(spec: DataSpec, encoder: str) -> None:
    task, again = (loaded(replace(spec, validation=None, test=None)) for _ in range(2))
    assert task.num_rows == {"train": 36, "validation": 4}
    assert task.fingerprint == again.fingerprint
    whole = loaded(replace(spec, test=None))
    tokenizer = task.load_tokenizer(encoder)
    parts = [tuple(row) for split in ("train", "validation") for row in task.encode(split, tokenizer).input_ids]
    assert sorted(parts) == sorted(tuple(row) for row in whole.encode("train", tokenizer).input_ids)
    limited = loaded(replace(spec, validation=None, test=None, limit=5))
    assert limited.num_rows == {"train": 5, "validation": 4}
    assert limited.split_fingerprint("validation") == task.split_fingerprint("validation")


def test_a_limit_keeps_the_first_rows_and_all_label_names(spec: DataSpec, encoder: str) -> None:
    limited, whole = loaded(replace(spec, limit=1)), loaded(spec)
    assert limited.label_names == whole.label_names
    tokenizer = whole.load_tokenizer(encoder)
    encoded = [task.encode("train", tokenizer).input_ids for task in (limited, whole)]
    assert encoded[0] == encoded[1][:1]
    assert loaded(replace(spec, limit=1000)).num_rows["train"] == 40


def test_a_split_that_is_not_there_is_named(spec: DataSpec) -> None:
    task = loaded(replace(spec, test=None))
    with pytest.raises(DataError, match=r"no test split; set data\.test\. There are: train, validation"):
        task.split_fingerprint("test")


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"text": None, "label": "a"}, "row 2, column 'text': there is no text"),
        ({"label": "a"}, "row 2, column 'text': there is no text"),
        ({"text": 5, "label": "a"}, "row 2, column 'text': 5 is of type int; every row needs a text"),
        ({"text": ["a"], "label": "a"}, r"row 2, column 'text': \['a'\] is of type list"),
        ({"text": "a \ud800", "label": "a"}, "row 2, column 'text': .* half of a surrogate pair"),
        ({"text": "a", "label": "c"}, r"row 2, column 'label': unknown label 'c'\. Known: a, b"),
        ({"text": "a"}, "row 2, column 'label': there is no label"),
    ],
)
def test_a_bad_row_of_any_split_is_named(write: Write, bad: dict[str, Any], problem: str) -> None:
    good = [{"text": "a", "label": "a"}, {"text": "b", "label": "b"}]
    train, test = write("train.jsonl", *good), write("test.jsonl", good[0], bad)
    with pytest.raises(DataError, match=problem) as caught:
        loaded(DataSpec(train, train, test))
    assert str(caught.value).startswith(test)


def test_a_missing_column_or_a_single_row_is_a_data_error(spec: DataSpec, write: Write) -> None:
    with pytest.raises(DataError, match=r"train.jsonl: unknown column 'txt': did you mean 'text'\? Known: label, o"):
        loaded(replace(spec, text="txt"))
    with pytest.raises(DataError, match="unknown column 'pair'"):
        loaded(replace(spec, text_pair="pair"))
    with pytest.raises(DataError, match=r"one row cannot be both trained on and held out; set data\.validation"):
        loaded(DataSpec(write("one.jsonl", *rows(1)), label_names=("starts True", "starts False")))


def test_lengths_and_limits_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_length is 0"):
        DataSpec("x", max_length=0)
    with pytest.raises(ConfigError, match="limit is 0"):
        DataSpec("x", limit=0)


def test_fingerprints_follow_the_content_and_nothing_else(spec: DataSpec, write: Write) -> None:
    task = loaded(spec)
    moved = loaded(replace(spec, train=write("elsewhere.jsonl", *rows(40))))
    assert task.fingerprint == moved.fingerprint
    changes = [
        replace(spec, max_length=15),
        replace(spec, text="other"),
        replace(spec, text_pair="other"),
        replace(spec, limit=39),
        replace(spec, label_names=("starts True", "starts False")),
        replace(spec, test=spec.validation),
        replace(spec, test=None),
    ]
    assert len({loaded(change).fingerprint for change in [spec, *changes]}) == len(changes) + 1
    assert loaded(changes[-1]).split_fingerprint("train") == task.split_fingerprint("train")


@pytest.mark.parametrize("pair", [None, "other"])
def test_rows_are_encoded_as_the_tokenizer_encodes_each_alone(spec: DataSpec, encoder: str, pair: str | None) -> None:
    task = loaded(replace(spec, text_pair=pair, max_length=9))
    tokenizer = task.load_tokenizer(encoder)
    encoded = task.encode("validation", tokenizer)
    assert encoded.token_type_ids is not None
    for index, row in enumerate(rows(11, 1)):
        alone = tokenizer(row["text"], row[pair] if pair else None, truncation=True, max_length=9)
        assert encoded.input_ids[index] == alone["input_ids"]
        assert encoded.token_type_ids[index] == alone["token_type_ids"]
        assert task.label_names[encoded.labels[index]] == row["label"]
    assert encoded.lengths.max() == 9
    assert encoded.pad_token_id == tokenizer.pad_token_id
    assert any(1 in row for row in encoded.token_type_ids) == (pair is not None)


def test_a_length_without_room_for_text_is_refused(spec: DataSpec, encoder: str) -> None:
    task = loaded(replace(spec, max_length=2))
    with pytest.raises(ConfigError, match="special tokens alone take 2; set it to 3 or more"):
        task.encode("train", task.load_tokenizer(encoder))


def test_evaluation_gives_each_rows_own_logits_in_order_and_leaves_the_modes(spec: DataSpec, encoder: str) -> None:
    task = loaded(spec)
    model = task.load_model(encoder)
    model.train()
    model.base_model.eval()
    encoded = task.encode("validation", task.load_tokenizer(encoder))
    judgement = task.evaluate(model, encoded, batch_size=4)
    assert model.training
    assert not model.base_model.training
    model.eval()
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in encoded.input_ids])
    assert torch.allclose(judgement.logits, alone, atol=1e-6)
    right = sum(int(row.argmax()) == label for row, label in zip(alone, encoded.labels.tolist(), strict=True))
    assert judgement.metrics["accuracy"] == pytest.approx(right / 11)
    assert set(judgement.metrics) == {"accuracy", "macro_f1"}
    assert torch.equal(judgement.labels, encoded.labels)
    assert not judgement.logits.requires_grad


def test_evaluation_under_autocast_still_gives_float32(spec: DataSpec, encoder: str) -> None:
    task = loaded(spec)
    model = task.load_model(encoder)
    encoded = task.encode("test", task.load_tokenizer(encoder))
    full, half = (task.evaluate(model, encoded, autocast_dtype=dtype).logits for dtype in (None, torch.bfloat16))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert torch.allclose(full, half, atol=0.02)


def test_a_model_for_other_labels_is_not_judged(spec: DataSpec, encoder: str) -> None:
    task = loaded(spec)
    other = loaded(replace(spec, label_names=("starts True", "starts False", "none"))).load_model(encoder)
    with pytest.raises(OutputError, match=r"logits of \(7, 3\) for 7 rows and 2 labels"):
        task.evaluate(other, task.encode("test", task.load_tokenizer(encoder)))


def test_batches_of_the_loader_train_a_model(spec: DataSpec, encoder: str) -> None:
    task = loaded(spec)
    torch.manual_seed(0)
    model = task.load_model(encoder)
    loader = task.loader(task.encode("train", task.load_tokenizer(encoder)), batch_size=8, seed=0, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.eval()
    losses = []
    for epoch in range(16):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
            loss = nn.functional.cross_entropy(logits, batch["labels"])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_text_of_a_csv_file_may_not_be_empty(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,0\n,1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.csv, row 2, column 'text': there is no text"):
        loaded(DataSpec(str(tmp_path / "rows.csv")))
