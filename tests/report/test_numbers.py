"""Promises of the numbers on a report: each is what a plain recomputation gives."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from stillhouse.metrics import entity_metrics
from stillhouse.report.answers import Choice
from stillhouse.report.calibration import calibration, student_calibration, teacher_calibration
from stillhouse.report.classes import class_scores
from stillhouse.report.confusion import confusion
from stillhouse.report.entities import entity_scores, type_of
from stillhouse.report.formatting import measure, ratio, short_count, times
from stillhouse.report.groups import spread

SPELLED: list[tuple[Callable[[float], str], float, str]] = [
    (measure, 0.98765, "0.9877"), (measure, 1, "1.0000"), (measure, 34.5678, "34.57"), (measure, 999.94, "999.9"),
    (measure, 999.96, "1,000"), (measure, 12345.6, "12,346"), (measure, -2500.4, "-2,500"),
    (short_count, 999, "999"), (short_count, 999.6, "1 k"), (short_count, 6_190_000, "6.19 M"),
    (short_count, 999_400, "999 k"), (short_count, 999_500, "1 M"), (short_count, 999_600, "1 M"),
    (short_count, 999_700_000, "1 B"), (short_count, 1.2345e12, "1,234 B"),
    (times, 2.64, "2.6 ×"), (times, 154.2, "154 ×"), (ratio, 9.96, "10"), (ratio, 1542.0, "1,542"),
]
NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def draw() -> random.Random:
    return random.Random(5)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_numpys_histograms(draw: random.Random, num_bins: int) -> None:
    confidences = np.array([draw.random() for _ in range(997)])
    rights = np.array([draw.random() < confidence**2 for confidence in confidences])
    edges = np.linspace(0, 1, num_bins + 1)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            expected += inside.mean() * abs(confidences[inside].mean() - rights[inside].mean())
    found = calibration(confidences.tolist(), rights.tolist(), num_bins)
    assert found.ece == pytest.approx(expected, abs=1e-12)
    assert sum(one.count for one in found.bins) == found.count == 997
    assert found.accuracy == pytest.approx(rights.mean())


def test_a_model_that_is_always_sure_and_half_as_often_right_is_off_by_a_half() -> None:
    assert calibration([1.0, 1.0], [True, False]).ece == pytest.approx(0.5)
    assert calibration([0.0, 0.0], [False, False]).bins[0].count == 2


def test_a_confidence_on_an_edge_is_in_the_bin_below() -> None:
    found = calibration([1 / 15, 1 / 15 + 1e-9], [True, True])
    assert [one.count for one in found.bins[:2]] == [1, 1]


def test_words_that_the_student_did_not_see_are_not_judged() -> None:
    seen = Choice(gold="a", teacher="b", teacher_confidence=0.9, student="a", student_confidence=0.8)
    unseen = Choice(gold="a", teacher="a", teacher_confidence=1.0, student="b", student_confidence=0.0)
    student, teacher = student_calibration([seen, unseen]), teacher_calibration([seen, unseen])
    assert student is not None and (student.confidence, student.accuracy) == (0.8, 1.0)
    assert teacher is not None and (teacher.confidence, teacher.accuracy) == (0.9, 0.0)
    assert student_calibration([unseen]) is None and teacher_calibration([unseen]) is None


def test_no_answers_have_no_calibration() -> None:
    with pytest.raises(ValueError, match="0 confidences"):
        calibration([], [])


def drawn(draw: random.Random, names: list[str], count: int) -> list[str]:
    return [draw.choice(names) for _ in range(count)]


def test_confusions_are_those_of_scikit_learn(draw: random.Random) -> None:
    reference, student = drawn(draw, NAMES, 300), drawn(draw, NAMES[:3], 300)
    found = confusion(zip(reference, student, strict=True), NAMES)
    assert np.array_equal(found.counts, confusion_matrix(reference, student, labels=NAMES))
    assert [sum(row) for row in found.shares()] == pytest.approx([1.0] * 4)


def test_a_name_that_nobody_listed_is_counted_after_those_listed() -> None:
    found = confusion([("z", "a"), ("a", "a"), ("y", "z")], ["b", "a"])
    assert found.names == ("b", "a", "y", "z")
    assert sum(map(sum, found.counts)) == 3
    assert found.shares()[0] == [0.0] * 4


def test_the_most_confused_pairs_are_the_largest_counts_off_the_diagonal(draw: random.Random) -> None:
    pairs = list(zip(drawn(draw, NAMES, 500), drawn(draw, NAMES, 500), strict=True))
    found = confusion(pairs, NAMES).most_confused(5)
    by_hand = sorted((pairs.count((one, other)) for one in NAMES for other in NAMES if one != other), reverse=True)
    assert [pair.count for pair in found] == by_hand[:5]
    assert all(pair.reference != pair.student for pair in found)
    assert found[0].share == pytest.approx(
        found[0].count / sum(reference == found[0].reference for reference, _ in pairs))


def test_class_scores_are_those_of_scikit_learn(draw: random.Random) -> None:
    gold, said = drawn(draw, NAMES, 200), drawn(draw, NAMES[1:], 200)
    expected = precision_recall_fscore_support(gold, said, labels=NAMES, zero_division=0)
    found = class_scores([[name] for name in gold], [[name] for name in said], NAMES)
    for i, one in enumerate(found):
        assert (one.precision, one.recall, one.f1, one.count) == pytest.approx([column[i] for column in expected])


def test_scores_of_several_labels_a_row_count_each_label_alone() -> None:
    first, second = class_scores([["a", "b"], ["a"], []], [["a"], ["b"], ["a"]], ["a", "b"])
    assert (first.precision, first.recall, first.f1, first.count) == (0.5, 0.5, 0.5, 2)
    assert (second.precision, second.recall, second.f1, second.count) == (0.0, 0.0, 0.0, 1)


def test_entities_of_all_types_together_are_what_the_tasks_measure_counts(draw: random.Random) -> None:
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    gold, said = ([drawn(draw, tags, 12) for _ in range(60)] for _ in range(2))
    types = entity_scores(gold, said)
    assert [one.name for one in types] == ["LOC", "PER"]
    recall = sum(one.recall * one.count for one in types) / sum(one.count for one in types)
    assert recall == pytest.approx(entity_metrics(said, gold)["recall"])


def test_an_entity_cut_short_is_wrong() -> None:
    gold, said = [["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "O", "O", "B-LOC"]]
    assert {one.name: one.f1 for one in entity_scores(gold, said)} == {"LOC": 1.0, "PER": 0.0}


@pytest.mark.parametrize(("tag", "expected"), [("B-PER", "PER"), ("O", "O"), ("NOUN", "NOUN"), ("I-a-b", "a-b")])
def test_the_type_of_a_tag_is_what_follows_its_position(tag: str, expected: str) -> None:
    assert type_of(tag) == expected


@pytest.mark.parametrize(("tell", "value", "expected"), SPELLED)
def test_no_number_is_told_with_an_exponent(tell: Callable[[float], str], value: float, expected: str) -> None:
    assert tell(value) == expected


def test_the_spread_of_seeds_is_the_samples() -> None:
    found = spread([0.1, 0.4, 0.9])
    assert (found.mean, found.deviation) == pytest.approx((np.mean([0.1, 0.4, 0.9]), np.std([0.1, 0.4, 0.9], ddof=1)))
    assert spread([0.5]).deviation is None
