"""Promises of the named shapes and of reshaped configurations."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BertConfig, DebertaV2Config, DistilBertConfig, ElectraConfig

from stillhouse.errors import PlanError
from stillhouse.students import StudentSpec, known_shapes, plan_student


def bert(**values: Any) -> BertConfig:
    """A BERT-base configuration with some values changed."""
    return BertConfig(**values)


def sizes(config: BertConfig) -> tuple[int, int, int, int]:
    """Depth, width, heads, intermediate size."""
    return (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)


MINILM: dict[str, int] = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}


@pytest.mark.parametrize(("teacher", "shape", "expected"), [
    ({}, "T6", (6, 768, 12, 3072)),
    ({}, "T3", (3, 768, 12, 3072)),
    ({}, "T3-small", (3, 384, 6, 1536)),
    ({}, "T4-tiny", (4, 320, 5, 1216)),
    ({}, "T12-nano", (12, 256, 4, 1024)),
    (MINILM, "T6", (6, 384, 12, 1536)),
    (MINILM, "T3", (3, 384, 12, 1536)),
    (MINILM, "T3-small", (3, 192, 6, 768)),
    (MINILM, "T4-tiny", (4, 160, 5, 608)),
    (MINILM, "T12-nano", (12, 128, 4, 512)),
])
def test_named_shapes_have_the_papers_ratio_to_the_teachers_width(
        teacher: dict[str, int], shape: str, expected: tuple[int, int, int, int]) -> None:
    assert sizes(plan_student(bert(**teacher), StudentSpec(shape=shape)).config) == expected


@pytest.mark.parametrize("width", [32, 64, 128, 192, 312, 384, 512, 768, 1024])
@pytest.mark.parametrize("shape", ["T3-small", "T4-tiny", "T12-nano"])
def test_narrow_shapes_are_a_multiple_of_32_not_below_the_ratio_with_heads_of_32_or_64(width: int, shape: str) -> None:
    teacher = bert(hidden_size=width, num_attention_heads=4)
    _, student, heads, _ = sizes(plan_student(teacher, StudentSpec(shape=shape)).config)
    exact = width * {"T3-small": 384, "T4-tiny": 312, "T12-nano": 256}[shape] / 768
    assert student % 32 == 0
    assert 0 <= student - exact < 32
    assert student / heads in (32, 64)


def test_an_unknown_shape_lists_the_known_ones() -> None:
    with pytest.raises(PlanError, match="did you mean 'T4-tiny'") as caught:
        plan_student(bert(), StudentSpec(shape="T4-tinny"))
    assert all(name in str(caught.value) for name in known_shapes())


def test_a_shape_deeper_than_the_teacher_is_refused_with_those_that_fit() -> None:
    with pytest.raises(PlanError, match="teacher has only 4: choose one of T3, T3-small, T4-tiny, T12-nano"):
        plan_student(bert(num_hidden_layers=4), StudentSpec(shape="T6"))


def test_t12_nano_may_be_deeper_than_the_teacher() -> None:
    assert plan_student(bert(num_hidden_layers=2), StudentSpec(shape="T12-nano")).config.num_hidden_layers == 12


def test_a_config_student_changes_what_it_names_and_nothing_else() -> None:
    teacher = bert(hidden_dropout_prob=0.3)
    before = teacher.to_dict()
    student = plan_student(teacher, StudentSpec(config={"num_hidden_layers": 2, "hidden_size": 96})).config.to_dict()
    assert {name for name in before if student[name] != before[name]} == {"num_hidden_layers", "hidden_size"}
    assert teacher.to_dict() == before


def test_usual_names_reach_the_familys_own_names() -> None:
    asked = {"num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 100}
    student = plan_student(DistilBertConfig(), StudentSpec(config=asked)).config
    assert (student.n_layers, student.dim, student.n_heads, student.hidden_dim) == (2, 96, 3, 100)
    assert "intermediate_size" not in student.to_dict()


def test_embedding_and_pooler_widths_follow_the_width_only_if_they_did_in_the_teacher() -> None:
    spec = StudentSpec(config={"hidden_size": 96, "num_attention_heads": 4})
    assert plan_student(ElectraConfig(embedding_size=256), spec).config.embedding_size == 96
    assert plan_student(ElectraConfig(embedding_size=128), spec).config.embedding_size == 128
    assert plan_student(DebertaV2Config(pooler_hidden_size=1536), spec).config.pooler_hidden_size == 96


@pytest.mark.parametrize(("config", "message"), [
    ({}, "is empty: give at least one of num_hidden_layers"),
    ({"hiden_size": 96}, "did you mean 'hidden_size'"),
    ({"hidden_size": 100}, "100 cannot be split into 12 heads: give hidden_size 96 or 108, or .* 1, 2, 4, 5, 10$"),
    ({"hidden_size": 0}, "hidden_size is 0: give a whole number"),
    ({"hidden_size": "big"}, "hidden_size is 'big': give a whole number"),
    ({"num_hidden_layers": 13}, "13, more than the teacher's 12: give at most 12"),
    ({"vocab_size": 100}, "keeps the teacher's vocabulary; leave vocab_size out"),
    ({"pad_token_id": 7}, "keeps the teacher's vocabulary; leave pad_token_id out"),
    ({"num_labels": 7}, "keeps the teacher's labels; leave num_labels out"),
    ({"model_type": "roberta"}, "teacher's own class; leave model_type out"),
    ({"hidden_dropout_prob": "much"}, "not a valid BertConfig: .*hidden_dropout_prob"),
])
def test_an_impossible_config_is_refused_with_its_remedy(config: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=f"(?s){message}"):
        plan_student(bert(), StudentSpec(config=config))


def test_a_size_under_two_names_is_refused() -> None:
    with pytest.raises(PlanError, match="dim and hidden_size are the same setting"):
        plan_student(DistilBertConfig(), StudentSpec(config={"dim": 96, "hidden_size": 192}))


def test_a_fixed_setting_may_be_repeated_with_the_teachers_value() -> None:
    student = plan_student(bert(), StudentSpec(config={"vocab_size": bert().vocab_size, "num_hidden_layers": 1})).config
    assert student.num_hidden_layers == 1
