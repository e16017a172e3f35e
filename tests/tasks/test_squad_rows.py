"""Promises of SQuAD's forms: all say the same, and what does not fit together is named."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse.errors import DataError
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.squad_rows import flattened, gold_answers

CONTEXT = "Ann lives in Rome."
GOLD = {"text": ["Rome", "in Rome"], "answer_start": [13, 10]}


def checked(value: Any, *, may_be_none: bool = False, need_starts: bool = True) -> list[dict[str, Any]]:
    rows = Rows("train.jsonl", {"answers": [GOLD, value]})
    return gold_answers(rows, "answers", [CONTEXT] * 2, may_be_none=may_be_none, need_starts=need_starts)


def test_both_forms_of_answers_mean_the_same() -> None:
    objects = [{"text": "Rome", "answer_start": 13}, {"text": "in Rome", "answer_start": 10, "id": 5}]
    assert checked(objects) == checked(GOLD) == [GOLD, GOLD]


@pytest.mark.parametrize("nothing", [[], {"text": [], "answer_start": []}, {"text": []}])
def test_questions_without_an_answer_are_taken_if_allowed(nothing: Any) -> None:
    assert checked(nothing, may_be_none=True)[1] == {"text": [], "answer_start": []}
    with pytest.raises(DataError, match=r"train\.jsonl, row 2, column 'answers': the question has no answer; leave the "
                                        r"row out, or set data\.no_answer to true"):
        checked(nothing)


@pytest.mark.parametrize("value", [{"text": ["London"]}, [{"text": "London"}]])
def test_answers_that_are_only_judged_need_no_place(value: Any) -> None:
    assert checked(value, need_starts=False)[1] == {"text": ["London"], "answer_start": None}
    with pytest.raises(DataError, match="row 2, column 'answers': there is no answer_start, without which nothing can"):
        checked(value)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"text": ["Rome"], "answer_start": [12]}, r"answer 'Rome' has answer_start 12, but the context has ' Rom' "
                                                   r"there \(it first stands at 13\); answer_start counts characters"),
        ({"text": ["Paris"], "answer_start": [13]}, r"'Rome\.' there \(it is nowhere in the context\)"),
        ({"text": ["Rome.."], "answer_start": [13]}, r"the context has 'Rome\.' there"),
        ({"text": ["Rome"], "answer_start": [18]}, "answer_start 18 of answer 'Rome' is outside the context of 18 ch"),
        ({"text": ["."], "answer_start": [-1]}, r"answer_start -1 of answer '\.' is outside"),
        ({"text": ["Ann", "Rome"], "answer_start": [0, 1]}, "answer 'Rome' has answer_start 1, but the context has 'n"),
        ({"text": ["Rome"], "answer_start": [13, 10]}, "1 texts but 2 of answer_start"),
        ({"text": ["Rome"], "answer_start": 13}, r"answer_start is 13, which is no list of whole numbers; write \{"),
        ({"text": ["Rome"], "answer_start": ["13"]}, r"answer_start is \['13'\], which is no list"),
        ({"text": ["Rome"], "answer_start": [True]}, r"answer_start is \[True\]"),
        ({"text": ["Rome"], "answer_start": [13.0]}, r"answer_start is \[13\.0\]"),
        ([{"text": "Rome", "answer_start": 13}, {"text": "Ann"}], r"answer_start is \[13, None\]"),
        ({"text": "Rome", "answer_start": [13]}, "text is 'Rome', which is no list of texts with something in them"),
        ({"text": [""], "answer_start": [0]}, r"text is \[''\], .* with empty lists for a question without an answer"),
        ({"text": [" "], "answer_start": [3]}, r"text is \[' '\], which is no list"),
        ([{"answer": "Rome"}], r"text is \[None\], which is no list"),
        ({}, "text is None, which is no list"),
        (None, r"there are no answers; write \{"),
        ("Rome", r"'Rome' is of type str; write .*\(JSON and parquet files hold such\)"),
        (["Rome"], r"\['Rome'\] is of type list"),
    ],
)
def test_answers_that_do_not_fit_are_named(bad: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        checked(bad, may_be_none=True)
    assert str(caught.value).startswith("train.jsonl, row 2, column 'answers': ")


def official() -> dict[str, list[Any]]:
    questions = [{"id": "1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 13}]},
                 {"id": "2", "question": "Why?", "answers": [], "is_impossible": True,
                  "plausible_answers": [{"text": "Ann", "answer_start": 0}]}]
    articles = [[], [{"context": CONTEXT, "qas": questions}, {"context": "b", "qas": []}],
                [{"context": "c", "qas": [{"question": "d", "answers": []}]}]]
    return {"title": ["x", "y", "z"], "paragraphs": articles}


def test_questions_of_squads_own_files_become_rows_that_know_their_article() -> None:
    rows = flattened(Rows("dev.json", official()))
    assert rows.columns == {"question": ["Where?", "Why?", "d"], "context": [CONTEXT, CONTEXT, "c"],
                            "answers": [[{"text": "Rome", "answer_start": 13}], [], []]}
    assert [rows.where(index) for index in range(3)] == ["dev.json, row 2", "dev.json, row 2", "dev.json, row 3"]


def test_other_rows_stay_as_they_are() -> None:
    plain = Rows("a.jsonl", {"question": ["a"], "context": ["b"], "answers": [GOLD]})
    beside = Rows("a.jsonl", {**plain.columns, "paragraphs": ["of something else"]})
    assert flattened(plain) is plain
    assert flattened(beside) is beside


@pytest.mark.parametrize(
    ("paragraphs", "problem"),
    [
        (None, "dev.json, row 1, paragraphs: None is no list of objects"),
        (["text"], r"dev.json, row 1, paragraphs: \['text'\] is no list of objects"),
        ([{"context": "a"}], "dev.json, row 1, qas of a paragraph: None is no list of objects, as SQuAD's form has it"),
        ([], "dev.json: there are no questions in the paragraphs"),
    ],
)
def test_a_form_that_is_broken_off_is_named(paragraphs: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        flattened(Rows("dev.json", {"title": ["x"], "paragraphs": [paragraphs]}))
