"""Promises of a look at a data file: the columns that people would name themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillhouse.setting_up.looking import (
    Look,
    beside,
    is_mostly_cjk,
    is_mostly_latin,
    label_file,
    nearly_longest,
    tokens_about,
)
from stillhouse.tasks.data_files import read_rows

from .conftest import asked, labelled, scored, tagged, write


def look_at(folder: Path, rows: list[dict[str, Any]], name: str = "train.jsonl") -> Look:
    return Look(read_rows(write(folder / name, rows)))


def seen(look: Look) -> tuple[str, tuple[str, ...], str]:
    task = look.task()
    return task, look.text(task), look.label_of(task)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_text_and_its_label_are_found_among_other_columns(folder: Path, suffix: str) -> None:
    look = look_at(folder, labelled(), f"train{suffix}")
    assert seen(look) == ("text-classification", ("question",), "intent")
    assert look.labels_kind("intent") == "single"


def test_columns_of_any_name_are_told_apart_by_what_they_hold(folder: Path) -> None:
    rows = [{"a": row["intent"], "b": row["question"]} for row in labelled()]
    assert seen(look_at(folder, rows)) == ("text-classification", ("b",), "a")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_number_is_a_label_too(folder: Path, suffix: str) -> None:
    classes = [{"text": row["question"], "label": index % 2} for index, row in enumerate(labelled())]
    look = look_at(folder, classes, f"classes{suffix}")
    assert seen(look)[2] == "label" and look.labels_kind("label") == "single"
    measured = [{"text": row["question"], "label": index / 7} for index, row in enumerate(labelled())]
    look = look_at(folder, measured, f"measured{suffix}")
    assert seen(look)[2] == "label" and look.labels_kind("label") == "regression"


def test_a_stray_list_among_labels_is_a_value_like_any_other(folder: Path) -> None:
    rows = [{"text": f"{row['question']} {index}", "label": row["intent"]} for row in labelled()
            for index in range(4000 // len(labelled()) + 1)]
    rows[1]["label"] = ["odd"]  # between the rows that are looked at first
    assert seen(look_at(folder, rows))[2] == "label"


def test_a_list_of_labels_means_several(folder: Path) -> None:
    rows = [{"text": row["question"], "labels": [row["intent"], "any"]} for row in labelled()]
    look = look_at(folder, rows)
    assert seen(look) == ("text-classification", ("text",), "labels") and look.labels_kind("labels") == "multi"


def test_pairs_of_sentences_are_found_by_their_usual_names(folder: Path) -> None:
    assert seen(look_at(folder, scored())) == ("text-classification", ("sentence1", "sentence2"), "score")


def test_words_and_tags_are_lists_of_the_same_length(folder: Path) -> None:
    assert seen(look_at(folder, tagged())) == ("token-classification", ("tokens",), "ner_tags")
    other_names = [{"id": str(i), "t": row["ner_tags"], "w": row["tokens"]} for i, row in enumerate(tagged())]
    assert seen(look_at(folder, other_names, "other.jsonl")) == ("token-classification", ("w",), "t")


def test_numbers_can_be_tags(folder: Path) -> None:
    rows = [{"tokens": row["tokens"], "pos_tags": [len(tag) for tag in row["ner_tags"]]} for row in tagged()]
    assert seen(look_at(folder, rows)) == ("token-classification", ("tokens",), "pos_tags")


def test_questions_contexts_and_answers_are_told_apart(folder: Path) -> None:
    assert seen(look_at(folder, asked())) == ("question-answering", ("question", "context"), "answers")


def test_texts_alone_are_for_embeddings(folder: Path) -> None:
    texts = [{"text": row["question"]} for row in labelled()]
    assert seen(look_at(folder, texts))[:2] == ("sentence-embedding", ("text",))
    (folder / "texts.txt").write_text("\n".join(row["question"] for row in labelled()))
    assert seen(Look(read_rows(str(folder / "texts.txt"))))[:2] == ("sentence-embedding", ("text",))


def test_what_never_repeats_is_no_label(folder: Path) -> None:
    rows = [{"id": row["id"], "text": row["question"]} for row in labelled()]
    assert look_at(folder, rows).label() == ""


@pytest.mark.parametrize(("text", "number"), [("a b, c", 4), ("", 0), ("internationalization", 3), ("机器学习 ok", 5)])
def test_tokens_are_about_words_and_signs(text: str, number: int) -> None:
    assert tokens_about(text) == number


def test_one_row_in_a_hundred_may_be_longer() -> None:
    assert nearly_longest([*range(1, 100), 5000]) == 99
    assert nearly_longest([7]) == 7 and nearly_longest([]) == 0


def test_alphabets_are_told_apart() -> None:
    assert is_mostly_latin(["Über café"]) and not is_mostly_latin(["привет мир ok"])
    assert is_mostly_cjk(["机器学习 ok"]) and not is_mostly_cjk(["привет"])


def test_files_beside_the_training_data_are_found_by_their_names(folder: Path) -> None:
    for name in ("train.csv", "dev.csv", "valid.csv", "labels.json", "my-train-1.csv", "my-test-1.csv", "alone.csv"):
        (folder / name).touch()
    assert beside("train.csv", ("validation", "valid", "dev")) == "valid.csv"
    assert beside("./my-train-1.csv", ("test",)) == "my-test-1.csv"
    assert beside(str(folder / "train.csv"), ("dev",)) == str(folder / "dev.csv")
    assert beside("train.csv", ("test",)) is None and beside("alone.csv", ("dev",)) is None
    assert beside("hub/train", ("dev",)) is None
    assert label_file("train.csv") == "labels.json" and label_file("hub/train") is None
