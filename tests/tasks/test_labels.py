"""Promises of the labels: names and numbers, wherever they come from, and errors for those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stillhouse.errors import DataError
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.labels import Labels


def rows(*labels: Any, is_typed: bool = True, **more: Any) -> Rows:
    return Rows("data.jsonl", {"label": labels}, is_typed=is_typed, **more)


def test_names_that_occur_in_train_are_sorted() -> None:
    labels = Labels.of(rows("b", "a", "c", "a"), "label", None)
    assert labels.names == ("a", "b", "c")
    assert labels.numbers(rows("c", "a")) == [2, 0]


def test_numbers_that_occur_in_train_are_named_by_themselves() -> None:
    labels = Labels.of(rows(2, 0), "label", None)
    assert labels.names == ("0", "1", "2")
    assert labels.numbers(rows(1, 2.0)) == [1, 2]


def test_numbers_in_a_csv_file_are_numbers() -> None:
    labels = Labels.of(rows("10", "2", "0", is_typed=False), "label", None)
    assert labels.names == tuple(str(number) for number in range(11))
    assert labels.numbers(rows("2", "10", is_typed=False)) == [2, 10]
    listed = Labels.of(rows("1", "0", is_typed=False), "label", ("negative", "positive"))
    assert listed.numbers(rows("1", "negative", is_typed=False)) == [1, 0]


def test_true_and_false_are_names_as_they_are_in_a_csv_file() -> None:
    labels = Labels.of(rows(True, False), "label", None)
    assert labels.names == ("false", "true") and labels.numbers(rows(False, True)) == [0, 1]
    assert labels.numbers(rows("true", "false", is_typed=False)) == [1, 0]
    with pytest.raises(DataError, match="row 2: label 'true' is a name, but the train split begins with numbers"):
        Labels.of(rows(1, True), "label", None)


def test_a_list_of_true_and_false_is_no_list_of_labels() -> None:
    with pytest.raises(DataError, match=r"row 2, column 'label': \[True, False\] holds true or false, .*their names"):
        Labels.of(rows(["a"], [True, False]), "label", None, several=True)


def test_a_name_that_looks_like_a_number_is_a_name() -> None:
    assert Labels.of(rows("5", "1"), "label", ("1", "5")).numbers(rows("5", "1")) == [1, 0]
    assert Labels.of(rows("5", "1"), "label", None).names == ("1", "5")
    assert Labels.of(rows("5", is_typed=False), "label", ("1", "5")).numbers(rows("5", is_typed=False)) == [1]


def test_names_of_the_data_set_itself_are_used_and_may_be_overruled() -> None:
    train = rows(1, 0, class_names={"label": ("no", "yes")})
    assert Labels.of(train, "label", None).names == ("no", "yes")
    assert Labels.of(train, "label", ("off", "on")).names == ("off", "on")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.json", json.dumps(["x", "a b"])),
        ("names.json", json.dumps({"anything": ["x", "a b"]})),
        ("names.json", json.dumps({"other": ["q", "r"], "label": ["x", "a b"]})),
        ("names.txt", "x\r\na b\r\n\r\n"),
    ],
)
def test_a_file_of_names_is_a_json_list_an_object_or_lines(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    labels = Labels.of(rows("a b"), "label", str(tmp_path / name))
    assert labels.names == ("x", "a b")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "not readable as JSON"),
        ('{"a": ["x"], "b": ["y"]}', "no list for column 'label' among a, b"),
        ("[0, 1]", r"label names are a list of texts such as \[negative, positive\], not \[0, 1\]"),
        ('{"label": "x"}', "label names are a list of texts"),
        ('["x", "y", "x"]', "label 'x' is listed twice"),
        ('["x"]', "at least 2 labels, and there are 1: x"),
    ],
)
def test_a_wrong_file_of_names_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "names.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=problem) as caught:
        Labels.of(rows("x"), "label", str(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_of_names_is_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"no file {tmp_path}/names.json"):
        Labels.of(rows("x"), "label", "names.json")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (2, "row 2, column 'label': label 2 is outside 0 to 1: negative, positive; a model has"),
        (-1, r"row 2, column 'label': label -1 is outside 0 to 1 \(a row without a label\? leave it out\)"),
        ("Positive", "row 2, column 'label': unknown label 'Positive': did you mean 'positive'"),
        (None, "row 2, column 'label': there is no label"),
        ("", "row 2, column 'label': there is no label"),
        (0.5, "row 2, column 'label': the label is 0.5; give a name .* or a whole number; text classification predicts "
              "other numbers with labels: regression"),
        (True, "row 2, column 'label': unknown label 'true'. Known: negative, positive; a model has"),
        ([1], r"row 2, column 'label': the label is \[1\]; give a name"),
    ],
)
def test_a_label_that_is_not_listed_is_refused_with_its_row(label: Any, problem: str) -> None:
    labels = Labels.of(rows(0), "label", ("negative", "positive"))
    with pytest.raises(DataError, match=f"data.jsonl, {problem}"):
        labels.numbers(rows("negative", label))


def test_a_label_that_train_lacks_must_be_listed() -> None:
    train, test = rows("a", "b"), rows("a", "c")
    with pytest.raises(DataError, match=r"row 2, .*unknown label 'c'.* Known: a, b; .*list all in label_names"):
        Labels.of(train, "label", None).numbers(test)
    assert Labels.of(train, "label", ("a", "b", "c")).numbers(test) == [0, 2]
    with pytest.raises(DataError, match=r"label 2 is outside 0 to 1.*list all in label_names"):
        Labels.of(rows(0, 1), "label", None).numbers(rows(2))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ((0, "a"), "row 2: label 'a' is a name, but the train split begins with numbers"),
        (("a", 0), "row 2: label 0 is a number, but the train split begins with names"),
        ((0, -1), "row 2: label -1 is negative"),
        ((0, 5000), "row 2: label 5000 would make 5001 labels for 2 rows"),
        (("a", "a"), "at least 2 labels, and there are 1: a"),
    ],
)
def test_labels_of_train_that_make_no_sense_are_refused(labels: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        Labels.of(rows(*labels), "label", None)


def test_names_in_train_and_numbers_in_test_are_not_guessed_together() -> None:
    with pytest.raises(DataError, match="row 1: label 1 is a number, but the train split begins with names"):
        Labels.of(rows("1", "5"), "label", None).numbers(rows(1))


def test_many_names_do_not_fill_the_screen() -> None:
    labels = Labels.of(rows(0), "label", tuple(f"name{number:03}" for number in range(150)))
    for wrong in (150, "name0"):
        with pytest.raises(DataError, match=r"name019 and 130 more; ") as caught:
            labels.numbers(rows(wrong))
        assert len(str(caught.value)) < 400


# Lists of labels


def test_lists_of_names_are_known_by_all_that_occur_and_keep_their_order() -> None:
    train = rows(["b", "a"], [], ["c", "a", "a"])
    labels = Labels.of(train, "label", None, several=True)
    assert labels.names == ("a", "b", "c")
    assert labels.lists(train) == [[1, 0], [], [2, 0, 0]]
    assert labels.sets(train) == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert labels.lists(rows(("c",))) == [[2]]


def test_lists_of_numbers_are_named_by_themselves_or_by_a_list() -> None:
    assert Labels.of(rows([2], [0, 1]), "label", None, several=True).names == ("0", "1", "2")
    listed = Labels.of(rows([2]), "label", ("x", "y", "z"), several=True)
    assert listed.lists(rows([2, 0.0], ["y"])) == [[2, 0], [1]]


def test_no_label_at_all_must_be_listed_in_train_and_may_be_elsewhere() -> None:
    with pytest.raises(DataError, match=r"data.jsonl, column 'label': no row has a label; list the names in label_nam"):
        Labels.of(rows([], []), "label", None, several=True)
    labels = Labels.of(rows([], []), "label", ("x", "y"), several=True)
    assert labels.lists(rows([], [])) == [[], []] and labels.sets(rows([])) == [[0, 0]]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("a", "row 3, column 'label': 'a' is no list of labels; write"),
        (None, "row 3, column 'label': None is no list of labels"),
        ({"a": 1}, "row 3, column 'label': {'a': 1} is no list of labels"),
        (["a", "c"], "row 3, column 'label': unknown label 'c'"),
        (["a", None], "row 3, column 'label': there is no label"),
        ([1, -1], "row 3, column 'label': label -1 is outside 0 to 1"),
    ],
)
def test_a_list_with_something_wrong_is_named_by_its_row(bad: Any, problem: str) -> None:
    labels = Labels.of(rows(["a"]), "label", ("a", "b"), several=True)
    with pytest.raises(DataError, match=problem):
        labels.lists(rows(["a", "a", "a"], ["b"], bad))


def test_a_row_keeps_its_place_in_the_file_when_lists_are_flattened() -> None:
    placed = Rows("data.txt", {"label": (["a"], ["a", "c"])}, places=(4, 7))
    with pytest.raises(DataError, match=r"data\.txt, row 8, column 'label': unknown label 'c'"):
        Labels.of(rows(["a"]), "label", ("a", "b"), several=True).lists(placed)
