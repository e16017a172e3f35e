"""Promises of what is told of answers: who agrees, who is right, and which rows are shown."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse.report.answers import LabelSet, OneOfSeveral, Score, SingleLabel, Span, Tags
from stillhouse.report.disagreements import LONGEST_TEXT, agreement, cut, hardest


def line(row: int, gold: str | None, teacher: str | None, student: str, sure: float = 0.5) -> dict[str, Any]:
    said = {"label": teacher, "confidence": sure} if teacher else None
    return {"row": row, "inputs": {"text": f"text {row}", "text_pair": None}, "label": gold, "teacher": said,
            "student": {"label": student, "confidence": sure}}


def test_agreement_counts_each_row_once() -> None:
    lines = [line(0, "a", "a", "a"), line(1, "a", "a", "b"), line(2, "b", "a", "b"), line(3, "c", "a", "b"),
             line(4, None, "a", "a"), line(5, "a", None, "a")]
    found = agreement(lines, SingleLabel())
    assert found is not None
    assert (found.rows, found.same, found.labelled) == (5, 2, 4)
    assert (found.both_right, found.only_teacher, found.only_student, found.both_wrong) == (1, 1, 1, 1)


def test_without_a_teacher_there_is_no_agreement() -> None:
    assert agreement([line(0, "a", None, "a")], SingleLabel()) is None


def test_the_hardest_disagreements_are_those_that_both_are_sure_of() -> None:
    lines = [line(0, "a", "a", "b", 0.6), line(1, "a", "a", "a", 1.0), line(2, "b", "a", "b", 0.9),
             line(3, "c", "a", "b", 0.3)]
    found = hardest(lines, SingleLabel(), 2)
    assert [(one.row, one.verdict) for one in found] == [(2, "student"), (0, "teacher")]
    assert found[0].texts == (("text", "text 2"),)


def test_a_long_text_is_cut_at_a_space_and_says_so() -> None:
    text = "word " * 500
    shown = cut(text)
    assert len(shown) <= LONGEST_TEXT + 2 and shown.endswith("word …")
    assert cut("short") == "short"
    assert len(cut("x" * 1000)) <= LONGEST_TEXT + 2


def test_words_on_which_taggers_differ_are_marked_with_what_each_says() -> None:
    said = {"tags": ["O", "B-PER"], "confidence": [0.9, 0.8]}
    tagged = {"row": 4, "inputs": {"words": ["by", "Mill"]}, "label": ["O", "B-LOC"], "teacher": said,
              "student": {"tags": ["O", "O"], "confidence": [0.9, 0.8]}}
    (found,) = hardest([tagged], Tags(), 5)
    assert [(word.text, word.note) for word in found.words] == [
        ("by", ""), ("Mill", "teacher B-PER, student O, label B-LOC")]
    assert found.verdict == "neither"


def test_a_difference_far_into_a_long_sentence_is_shown() -> None:
    tags = ["O"] * 200
    other = [*tags[:150], "B-X", *tags[151:]]
    sides = {who: {"tags": said, "confidence": [0.9] * 200} for who, said in (("teacher", tags), ("student", other))}
    (found,) = hardest([{"row": 0, "inputs": {"words": [f"w{i}" for i in range(200)]}, "label": None, **sides}],
                       Tags(), 1)
    assert [word.text for word in found.words if word.note] == ["w150"]
    assert found.words[0].text == found.words[-1].text == "…"


@pytest.mark.parametrize(("kind", "gold", "right", "wrong", "told"), [
    (SingleLabel(), "a", {"label": "a"}, {"label": "b"}, "a"),
    (LabelSet(), ["a", "b"], {"labels": ["b", "a"]}, {"labels": ["a"]}, "b, a"),
    (LabelSet(), [], {"labels": []}, {"labels": ["a"]}, "(nothing)"),
    (OneOfSeveral(), 1, {"choice": 1}, {"choice": 0}, "choice 2"),
    (Tags(), ["O", "B-X"], {"tags": ["O", "B-X"]}, {"tags": ["O", "O"]}, "O B-X"),
    (Span("en"), ["The mill"], {"answer": "mill."}, {"answer": "a river"}, "mill."),
    (Span("en"), [], {"answer": ""}, {"answer": "a river"}, "(nothing)"),
    (Span("zh"), ["北京。"], {"answer": "北京"}, {"answer": "上海"}, "北京"),
])
def test_answers_are_right_as_their_task_counts(kind: Any, gold: Any, right: Any, wrong: Any, told: str) -> None:
    assert kind.right(right, gold) and not kind.right(wrong, gold)
    assert kind.same(right, right) and not kind.same(right, wrong)
    assert kind.told(right) == told


def test_scores_differ_by_their_distance() -> None:
    assert Score().gap({"score": 1.0}, {"score": 3.5}) == 2.5
    assert Score().told({"score": 2.7182}) == "2.718"
