"""Promises of text classification: data checked, rows encoded as a tokenizer does alone, answers judged row by row."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.errors import ConfigError, DataError, OutputError
from stillhouse.losses import BinaryLabels, HardLabels, SquaredError
from stillhouse.tasks import TASKS, Examples, TextClassification, TextClassificationData
from stillhouse.tasks.answering import answers
from stillhouse.types import LOGITS

Write = Callable[..., str]


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices("abcdefghij", k=draw.randint(1, 12))) for _ in range(count)]
    return [{"text": text, "other": text[::-1][:5], "label": f"starts {text[0] in 'abcde'}"} for text in texts]


def changed(spec: TextClassificationData, **changes: Any) -> TextClassificationData:
    return spec.model_copy(update=changes)


def loaded(spec: TextClassificationData) -> TextClassification:
    task = TextClassification(spec)
    task.load()
    return task


@pytest.fixture
def spec(write: Write) -> TextClassificationData:
    return TextClassificationData.of(
        train=write("train.jsonl", *rows(40)),
        validation=write("validation.jsonl", *rows(11, 1)),
        test=write("test.jsonl", *rows(7, 2)),
        max_length=16,
    )


def test_the_task_is_known_by_its_name() -> None:
    assert TASKS["text-classification"] is TextClassification
    assert TextClassification(TextClassificationData.of(train="x")).metric == "accuracy"


def test_all_splits_are_read(spec: TextClassificationData) -> None:
    task = loaded(spec)
    assert task.num_rows == {"train": 40, "validation": 11, "test": 7}
    assert task.label_names == ("starts False", "starts True")


def test_without_validation_a_tenth_of_train_is_held_out_and_trained_on_by_nobody(
    spec: TextClassificationData, encoder: str
) -> None:
    task, again = (loaded(changed(spec, validation=None, test=None)) for _ in range(2))
    assert task.num_rows == {"train": 36, "validation": 4}
    assert task.fingerprint == again.fingerprint
    whole = loaded(changed(spec, test=None))
    tokenizer = task.load_tokenizer(encoder)
    parts = [task.encode(split, tokenizer).tokens["input_ids"] for split in ("train", "validation")]
    assert sorted([*parts[0], *parts[1]]) == sorted(whole.encode("train", tokenizer).tokens["input_ids"])
    limited = loaded(changed(spec, validation=None, test=None, limit=5))
    assert limited.num_rows == {"train": 5, "validation": 4}
    assert limited.split_fingerprint("validation") == task.split_fingerprint("validation")


def test_a_limit_keeps_the_first_rows_and_all_label_names(spec: TextClassificationData, encoder: str) -> None:
    limited, whole = loaded(changed(spec, limit=1)), loaded(spec)
    assert limited.label_names == whole.label_names
    tokenizer = whole.load_tokenizer(encoder)
    encoded = [task.encode("train", tokenizer).tokens["input_ids"] for task in (limited, whole)]
    assert list(encoded[0]) == encoded[1][:1]
    assert loaded(changed(spec, limit=1000)).num_rows["train"] == 40


def test_what_lies_beyond_a_limit_is_read_only_for_the_names_of_labels(write: Write) -> None:
    short = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]
    spec = TextClassificationData.of(train=write("long.jsonl", *short, {"text": "odd", "label": "perhaps"}),
                                     validation=write("short.jsonl", *short), limit=2)
    assert loaded(spec).label_names == ("no", "perhaps", "yes")
    listed = {"label_names": ["no", "yes"]}
    assert list(loaded(changed(spec, **listed)).split("train")["label"]) == [1, 0]
    for wrong in (changed(spec, **listed, limit=3), changed(spec, **listed, validation=None)):
        with pytest.raises(DataError, match="perhaps"):
            loaded(wrong)


def test_a_split_that_is_not_there_is_named(spec: TextClassificationData) -> None:
    task = loaded(changed(spec, test=None))
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
        loaded(TextClassificationData.of(train=train, validation=train, test=test))
    assert str(caught.value).startswith(test)


def test_a_missing_column_or_a_single_row_is_a_data_error(spec: TextClassificationData, write: Write) -> None:
    with pytest.raises(DataError, match=r"train.jsonl: unknown column 'txt': did you mean 'text'\? Known: label, o"):
        loaded(changed(spec, text="txt"))
    with pytest.raises(DataError, match="unknown column 'pair'"):
        loaded(changed(spec, text_pair="pair"))
    with pytest.raises(DataError, match=r"one row cannot be both trained on and held out; set data\.validation"):
        loaded(changed(spec, train=write("one.jsonl", *rows(1)), validation=None,
                       label_names=("starts True", "starts False")))


def test_a_column_that_nobody_named_is_told_with_its_setting(write: Write) -> None:
    path = write("rows.jsonl", {"sentence": "a", "étiquette": "x"}, {"sentence": "b", "étiquette": "y"})
    with pytest.raises(DataError, match=r"unknown column 'label'\. Known: sentence, étiquette; that is what data\."
                                        r"label is unless you say otherwise: name yours with label: \.\.\. \(in"):
        loaded(TextClassificationData.of(train=path, validation=path, text="sentence"))
    with pytest.raises(DataError, match=r"unknown column 'mood'\. Known: sentence, étiquette$"):
        loaded(TextClassificationData.of(train=path, validation=path, text="sentence", label="mood"))


def test_lengths_and_limits_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_length: 1: input should be greater than or equal to 2"):
        TextClassificationData.of(train="x", max_length=1)
    with pytest.raises(ConfigError, match="limit: 0: input should be greater than or equal to 1"):
        TextClassificationData.of(train="x", limit=0)
    with pytest.raises(ConfigError, match="labels: 'several' is not one of 'single', 'multi' or 'regression'"):
        TextClassificationData.of(train="x", labels="several")


def test_fingerprints_follow_the_content_and_nothing_else(spec: TextClassificationData, write: Write) -> None:
    task = loaded(spec)
    moved = loaded(changed(spec, train=write("elsewhere.jsonl", *rows(40))))
    assert task.fingerprint == moved.fingerprint
    changes = [
        changed(spec, max_length=15),
        changed(spec, text="other"),
        changed(spec, text_pair="other"),
        changed(spec, limit=39),
        changed(spec, label_names=("starts True", "starts False")),
        changed(spec, test=spec.validation),
        changed(spec, test=None),
    ]
    assert len({loaded(change).fingerprint for change in [spec, *changes]}) == len(changes) + 1
    assert loaded(changes[-1]).split_fingerprint("train") == task.split_fingerprint("train")


@pytest.mark.parametrize("pair", [None, "other"])
def test_rows_are_encoded_as_the_tokenizer_encodes_each_alone(
    spec: TextClassificationData, encoder: str, pair: str | None
) -> None:
    task = loaded(changed(spec, text_pair=pair, max_length=9))
    tokenizer = task.load_tokenizer(encoder)
    encoded = task.encode("validation", tokenizer)
    ids, types, labels = encoded.tokens["input_ids"], encoded.tokens["token_type_ids"], encoded.rows["labels"]
    for index, row in enumerate(rows(11, 1)):
        alone = tokenizer(row["text"], row[pair] if pair else None, truncation=True, max_length=9)
        assert ids[index] == alone["input_ids"]
        assert types[index] == alone["token_type_ids"]
        assert task.label_names[labels[index]] == row["label"]
    assert encoded.lengths.max() == 9
    assert encoded.padding["input_ids"] == tokenizer.pad_token_id
    assert any(1 in row for row in types) == (pair is not None)


def test_a_length_without_room_for_text_is_refused(spec: TextClassificationData, encoder: str) -> None:
    task = loaded(changed(spec, max_length=2))
    with pytest.raises(ConfigError, match="special tokens alone take 2; set it to 3 or more"):
        task.encode("train", task.load_tokenizer(encoder))


def test_evaluation_gives_each_rows_own_answer_in_order_and_leaves_the_modes(
    spec: TextClassificationData, encoder: str
) -> None:
    task = loaded(spec)
    model = task.load_model(encoder)
    encoded = task.encode("validation", task.load_tokenizer(encoder))
    logits = alone_logits(model, encoded.tokens["input_ids"])
    model.get_parameter("classifier.bias").data[0] += (logits[:, 1] - logits[:, 0]).median()  # both answers are given
    model.train()
    model.base_model.eval()
    judgement = task.evaluate(model, encoded, batch_size=4)
    assert model.training
    assert not model.base_model.training
    alone, labels = alone_logits(model, encoded.tokens["input_ids"]), encoded.rows["labels"]
    assert judgement.answers.tolist() == alone.argmax(dim=-1).tolist()
    assert len(set(judgement.answers.tolist())) == 2
    right = sum(int(row.argmax()) == label for row, label in zip(alone, labels.tolist(), strict=True))
    assert judgement.metrics["accuracy"] == pytest.approx(right / 11)
    assert set(judgement.metrics) == {"accuracy", "macro_f1"}


def alone_logits(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in rows])


def test_evaluation_under_autocast_still_gives_float32(spec: TextClassificationData, encoder: str) -> None:
    task = loaded(spec)
    model = task.load_model(encoder)
    encoded = task.encode("test", task.load_tokenizer(encoder))

    def logits(dtype: torch.dtype | None) -> torch.Tensor:
        (_, features), = answers(model, task.adaptor(), encoded, task.reads, batch_size=7, autocast_dtype=dtype)
        return features[LOGITS]

    full, half = logits(None), logits(torch.bfloat16)
    assert half.dtype == torch.float32 and not half.requires_grad
    assert not torch.equal(full, half)
    assert torch.allclose(full, half, atol=0.02)


def test_a_model_for_other_labels_is_not_judged(spec: TextClassificationData, encoder: str) -> None:
    task = loaded(spec)
    other = loaded(changed(spec, label_names=("starts True", "starts False", "none"))).load_model(encoder)
    with pytest.raises(OutputError, match=r"logits of \(7, 3\) for 7 rows and 2 labels"):
        task.evaluate(other, task.encode("test", task.load_tokenizer(encoder)))


def test_batches_of_the_loader_train_a_model(spec: TextClassificationData, encoder: str) -> None:
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
        loaded(TextClassificationData.of(train=str(tmp_path / "rows.csv")))


def test_the_lines_of_a_text_file_are_texts_without_labels(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("a b\n\nc\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.txt: unknown column 'label'.*Known: text"):
        loaded(TextClassificationData.of(train=str(tmp_path / "rows.txt")))


def test_added_rows_have_no_label(spec: TextClassificationData, encoder: str) -> None:
    task = loaded(spec)
    task.add_examples(Examples({"text": ["a b"], "label": [None]}))
    encoded = task.encode("train", task.load_tokenizer(encoder))
    assert task.num_rows["train"] == len(encoded) == 41 and task.num_labelled == 40
    assert encoded.rows["labels"][-1] == -100 and encoded.rows["labels"][:-1].ge(0).all()
    assert not task.adaptor().masks(encoded.batch([40]))["labels"].any()


# Several labels


def of_kind(write: Write, kind: str, *rows: Any, **settings: Any) -> TextClassification:
    path = write(f"{kind}.jsonl", *rows)
    return loaded(TextClassificationData.of(train=path, validation=path, labels=kind, max_length=16, **settings))


SEVERAL = [{"text": "a b", "label": ["y", "x"]}, {"text": "c", "label": []}, {"text": "d", "label": ["z"]},
           {"text": "e", "label": ["y", "y"]}]


def test_a_row_may_have_any_number_of_labels(write: Write, encoder: str) -> None:
    task = of_kind(write, "multi", *SEVERAL)
    assert (task.label_names, task.metric) == (("x", "y", "z"), "micro_f1")
    assert list(task.split("train")["label"]) == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]]
    task.add_examples(Examples({"text": ["f"], "label": [None]}))
    labels = task.encode("train", task.load_tokenizer(encoder)).rows["labels"]
    assert labels.dtype == torch.float32 and labels[:4].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert labels[4].isnan().all()
    model = task.load_model(encoder)
    assert model.config.problem_type == "multi_label_classification" and model.config.num_labels == 3
    numbers = of_kind(write, "multi", *({**row, "label": ["xyz".index(name) for name in row["label"]]}
                                        for row in SEVERAL), label_names=["x", "y", "z"])
    assert list(numbers.split("train")["label"]) == list(task.split("train")["label"])[:4]


def test_several_labels_are_judged_one_by_one(write: Write, encoder: str) -> None:
    task = of_kind(write, "multi", *SEVERAL)
    encoded = task.encode("validation", task.load_tokenizer(encoder))
    logits = torch.tensor([[1.0, 2.0, -1.0], [-1.0, 3.0, -1.0], [-2.0, -3.0, -0.1], [-1.0, 0.1, -4.0]])
    judgement = task.judged(encoded, iter([([3, 1], {LOGITS: logits[[3, 1]]}), ([0, 2], {LOGITS: logits[[0, 2]]})]))
    assert judgement.answers.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert judgement.metrics["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert judgement.metrics["subset_accuracy"] == 0.5
    other = task.judged(encoded, iter([([0, 1, 2, 3], {LOGITS: -logits})]))
    assert judgement.agreement(other) == 0.0 and judgement.agreement(judgement) == 1.0


@pytest.mark.parametrize(("bad", "problem"), [
    ("x", "row 2, column 'label': 'x' is no list of labels"),
    (None, "row 2, column 'label': None is no list of labels"),
    (["x", "q"], "row 2, column 'label': unknown label 'q'"),
    ([["x"]], r"row 2, column 'label': the label is \['x'\]"),
])
def test_a_row_with_other_than_a_list_of_labels_is_named(write: Write, bad: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        of_kind(write, "multi", SEVERAL[0], {"text": "b", "label": bad}, label_names=["x", "y", "z"])


def test_a_class_that_no_row_has_must_be_listed(write: Write) -> None:
    with pytest.raises(DataError, match="no row has a label"):
        of_kind(write, "multi", SEVERAL[1])
    assert of_kind(write, "multi", SEVERAL[1], label_names=["x", "y"]).split("train")["label"] == [[0, 0]]


# A number


def test_a_number_is_predicted_and_judged_by_its_rank(write: Write, encoder: str) -> None:
    scores = [0.5, 2, -3.25, 4]
    task = of_kind(write, "regression", *({"text": text, "label": score}
                                          for text, score in zip("abcd", scores, strict=True)))
    assert (task.metric, task.kd_losses) == ("spearman", ("mse",))
    assert list(task.split("train")["label"]) == scores
    model = task.load_model(encoder)
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    encoded = task.encode("validation", task.load_tokenizer(encoder))
    assert encoded.rows["labels"].tolist() == scores and encoded.rows["labels"].dtype == torch.float32
    judgement = task.evaluate(model, encoded, batch_size=3)
    alone = alone_logits(model, encoded.tokens["input_ids"])
    assert judgement.answers.tolist() == pytest.approx(alone[:, 0].tolist(), abs=1e-6)
    errors = alone[:, 0] - torch.tensor(scores)
    assert judgement.metrics["mse"] == pytest.approx(float(errors.square().mean()), rel=1e-4)
    said = task.judged(encoded, iter([([0, 1, 2, 3], {LOGITS: torch.tensor([[1.0], [2.0], [0.0], [9.0]])})]))
    assert said.metrics["spearman"] == pytest.approx(1.0)
    assert said.agreement(judgement) == pytest.approx(np.corrcoef(said.answers, judgement.answers)[0, 1])


def test_numbers_of_a_csv_file_are_read_and_no_number_is_named(tmp_path: Path, write: Write, encoder: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,1.5\nb,-2e1\n", encoding="utf-8")
    task = loaded(TextClassificationData.of(train=str(path), validation=str(path), labels="regression"))
    assert list(task.split("train")["label"]) == [1.5, -20.0]
    for bad in ("1.5", None, True, "high"):
        with pytest.raises(DataError, match=r"row 1, column 'label': .*every row needs one"):
            of_kind(write, "regression", {"text": "a", "label": bad})
    added = task.split("train").pick([0]).followed_by(Examples({"text": ["c"], "label": [None]}))
    labels = task.encoded(added, task.load_tokenizer(encoder)).rows["labels"]
    assert labels[0] == 1.5 and math.isnan(labels[1])


@pytest.mark.parametrize(("kind", "loss", "kd_losses"), [
    ("single", HardLabels, None), ("multi", BinaryLabels, ("bernoulli_kl", "mse")),
    ("regression", SquaredError, ("mse",)),
])
def test_each_kind_has_its_own_losses(kind: Any, loss: type, kd_losses: Any) -> None:
    task = TextClassification(TextClassificationData.of(train="x", labels=kind))
    assert type(task.hard_loss()) is loss and task.kd_losses == kd_losses


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_every_kind_of_label_can_be_learnt(write: Write, encoder: str, kind: str) -> None:
    draw = random.Random(0)
    texts = [draw.choices("abcdefghij", k=6) for _ in range(32)]
    label = (lambda words: [name for name in "ab" if name in words]) if kind == "multi" else (
        lambda words: words.count("a") - words.count("b"))
    task = of_kind(write, kind, *({"text": " ".join(words), "label": label(words)} for words in texts))
    torch.manual_seed(0)
    model, loss = task.load_model(encoder).eval(), task.hard_loss()
    batch = task.encode("train", task.load_tokenizer(encoder)).batch(range(32))
    optimizer, values = torch.optim.Adam(model.parameters(), lr=0.02), []
    for _ in range(60):
        optimizer.zero_grad()
        signals = task.adaptor().run(model, batch, loss.needs.student, {})
        value = loss(signals.features, {}, signals.masks) / 32
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.5 * values[0]
