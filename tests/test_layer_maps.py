"""Layer maps: which layer learns from which."""

from __future__ import annotations

import math

import pytest

from stillhouse.errors import PlanError
from stillhouse.layer_maps import LAYER_MAPS, LayerPair, first, last, resolve, uniform


@pytest.mark.parametrize("teacher", range(1, 25))
@pytest.mark.parametrize("student", [1, 2, 3, 5, 12])
def test_uniform_is_the_rounded_straight_line(teacher: int, student: int) -> None:
    pairs = uniform(teacher, student)
    assert [pair.student for pair in pairs] == list(range(student + 1))
    assert [pair.teacher for pair in pairs] == [math.floor(i * teacher / student + 0.5) for i in range(student + 1)]
    assert pairs[0] == (0, 0) and pairs[-1] == (teacher, student)


def test_published_maps() -> None:
    assert [pair.teacher for pair in uniform(12, 4)] == [0, 3, 6, 9, 12]  # TinyBERT
    assert [pair.teacher for pair in uniform(12, 3)] == [0, 4, 8, 12]
    assert [pair.teacher for pair in last(12, 6)] == [0, 7, 8, 9, 10, 11, 12]
    assert [pair.teacher for pair in first(12, 6)] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", LAYER_MAPS)
def test_a_name_is_its_map_and_equal_depths_are_the_identity(name: str) -> None:
    assert resolve(name, teacher_depth=6, student_depth=3) == LAYER_MAPS[name](6, 3)
    assert resolve(name, teacher_depth=4, student_depth=4) == tuple(LayerPair(i, i) for i in range(5))


@pytest.mark.parametrize("name", ["first", "last"])
def test_a_deeper_student_is_refused_where_the_map_has_no_meaning(name: str) -> None:
    with pytest.raises(PlanError, match=r"no deeper than the teacher \(5 and 4 layers\); use 'uniform' or explicit"):
        resolve(name, teacher_depth=4, student_depth=5)
    assert len(resolve("uniform", teacher_depth=4, student_depth=5)) == 6


@pytest.mark.parametrize("name", LAYER_MAPS)
@pytest.mark.parametrize(("teacher", "student", "message"), [(4, 0, "student_depth=0"), (0, 2, "teacher_depth=0"),
                                                             (4, -1, "student_depth=-1")])
def test_a_model_without_layers_has_no_map(name: str, teacher: int, student: int, message: str) -> None:
    with pytest.raises(PlanError, match=f"{message}: a layer map needs a .* at least 1 layer"):
        resolve(name, teacher_depth=teacher, student_depth=student)


def test_explicit_pairs_may_count_from_the_top() -> None:
    found = resolve([[0, 0], [4, 1], [-1, -1], (-13, -4)], teacher_depth=12, student_depth=3)
    assert found == ((0, 0), (4, 1), (12, 3), (0, 0))


@pytest.mark.parametrize(("pair", "message"), [
    ([13, 1], "the teacher has no layer 13: it has 12 layers"), ([-14, 1], "the teacher has no layer -14"),
    ([1, 4], "the student has no layer 4: it has 3 layers"), ([1, -5], "the student has no layer -5"),
    ([1], r"layer pair \[1\]: write \[teacher layer, student layer\]"), ([1, 2, 3], r"layer pair \[1, 2, 3\]"),
    (4, r"layer pair 4: write \[teacher layer, student layer\]"),
])
def test_layers_that_do_not_exist_are_refused(pair: list[int], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        resolve([pair], teacher_depth=12, student_depth=3)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"unknown layer map 'unifrom': did you mean 'uniform'\?.*or a list of"):
        resolve("unifrom", teacher_depth=12, student_depth=3)
