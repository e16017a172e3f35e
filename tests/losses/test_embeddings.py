"""Losses between the vectors of texts: each a plain sum over rows, against loops over rows and features."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stillhouse.adaptors.sentence_embedding import EMBEDDING
from stillhouse.errors import OutputError, PlanError
from stillhouse.losses.embeddings import (
    EMBEDDING_LOSSES,
    EmbeddingCosine,
    EmbeddingLoss,
    EmbeddingMSE,
    EmbeddingRelation,
)
from stillhouse.objective import Objective, Part, Term
from stillhouse.projections import linear
from stillhouse.types import Over, Progress, Unit

from .naive import Vector, dot

Naive = Callable[[list[Vector], list[Vector]], Tensor]
EVERY = list(EMBEDDING_LOSSES.values())
OVER_ROWS = [EmbeddingCosine, EmbeddingMSE]
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0]])  # of tokens: the third row stands for nothing
KEPT = [0, 1, 3]


def cosine(first: Vector, second: Vector) -> Tensor:
    return dot(first, second) / (dot(first, first) * dot(second, second)).sqrt()


def naive_cosine(student: list[Vector], teacher: list[Vector]) -> Tensor:
    return sum((1 - cosine(s, t) for s, t in zip(student, teacher, strict=True)), torch.zeros(()).double())


def naive_mse(student: list[Vector], teacher: list[Vector]) -> Tensor:
    total = torch.zeros(()).double()
    for s, t in zip(student, teacher, strict=True):
        total = total + sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)
    return total


def naive_relation(student: list[Vector], teacher: list[Vector]) -> Tensor:
    total = torch.zeros(()).double()
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        each = [(cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2 for j in others]
        total = total + sum(each) / len(others)
    return total


NAIVE: dict[type[EmbeddingLoss], Naive] = {
    EmbeddingCosine: naive_cosine, EmbeddingMSE: naive_mse, EmbeddingRelation: naive_relation}


def vectors(width_s: int = 5, width_t: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, width, generator=generator, dtype=torch.float64).to(dtype)
                        for width in (width_s, width_t))
    return student.requires_grad_(), teacher


def value(loss: EmbeddingLoss, student: Tensor, teacher: Tensor, mask: Tensor = MASK) -> Tensor:
    return loss({EMBEDDING: student}, {EMBEDDING: teacher}, {"inputs": mask})


def gradient(loss: EmbeddingLoss, student: Tensor, teacher: Tensor, mask: Tensor = MASK) -> Tensor:
    leaf = student.detach().clone().requires_grad_()
    value(loss, leaf, teacher, mask).backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("kind", EVERY)
def test_value_and_gradient_equal_a_loop_over_rows(kind: type[EmbeddingLoss]) -> None:
    student, teacher = vectors()
    expected = NAIVE[kind]([list(student[i]) for i in KEPT], [list(teacher[i]) for i in KEPT])
    expected.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    torch.testing.assert_close(value(kind(), student, teacher), expected)
    torch.testing.assert_close(gradient(kind(), student, teacher), student.grad)


@pytest.mark.parametrize("kind", EVERY)
def test_the_gradient_is_that_of_finite_differences(kind: type[EmbeddingLoss]) -> None:
    student, teacher = vectors()
    loss = kind(linear(5, 5).double())
    assert torch.autograd.gradcheck(lambda s: value(loss, s, teacher), (student,))


@pytest.mark.parametrize("kind", OVER_ROWS)
def test_the_value_is_a_sum_over_rows(kind: type[EmbeddingLoss]) -> None:
    student, teacher = vectors()
    apart = [value(kind(), student[[i]], teacher[[i]], MASK[[i]]) for i in range(4)]
    assert kind().scope == "rows" and apart[2].item() == 0
    torch.testing.assert_close(torch.stack(apart).sum(), value(kind(), student, teacher))


def test_the_relation_depends_on_the_batch_and_says_so() -> None:
    student, teacher = vectors()
    loss = EmbeddingRelation()
    assert loss.scope == "batch"
    assert value(loss, student[:2], teacher[:2], MASK[:2]).item() != pytest.approx(value(loss, student, teacher).item())


def test_a_single_row_has_no_relations() -> None:
    student, teacher = vectors()
    for rows in ([0], [0, 2]):
        leaf = student.detach()[rows].requires_grad_()
        found = value(EmbeddingRelation(), leaf, teacher[rows], MASK[rows])
        found.backward()
        assert found.item() == 0 and leaf.grad is not None and leaf.grad.eq(0).all()


def test_relations_do_not_depend_on_width_length_or_rotation() -> None:
    student, teacher = vectors(5, 3)
    expected = value(EmbeddingRelation(), student, teacher)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    torch.testing.assert_close(value(EmbeddingRelation(), student * 3, teacher @ turn), expected)
    torch.testing.assert_close(value(EmbeddingRelation(), student, teacher * torch.tensor([[1.0], [2], [3], [4]])),
                               expected)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("content", [5.0, math.nan, math.inf])
def test_rows_that_stand_for_nothing_add_exactly_nothing(kind: type[EmbeddingLoss], content: float) -> None:
    student, teacher = vectors()
    torch.manual_seed(0)
    loss = kind(linear(5, 5).double())
    clean, clean_gradient = value(loss, student, teacher), gradient(loss, student, teacher)
    dirty_student, dirty_teacher = student.detach().clone(), teacher.clone()
    dirty_student[2], dirty_teacher[2] = content, content
    loss.zero_grad()
    assert value(loss, dirty_student, dirty_teacher).item() == clean.item()
    dirty_gradient = gradient(loss, dirty_student, dirty_teacher)
    assert dirty_gradient.equal(clean_gradient) and dirty_gradient[2].eq(0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    without = value(loss, student[KEPT], teacher[KEPT], MASK[KEPT])
    torch.testing.assert_close(without, clean)


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_kept_gives_zero_with_a_graph(kind: type[EmbeddingLoss]) -> None:
    student, teacher = vectors()
    none = torch.zeros_like(MASK)
    assert value(kind(), student, teacher, none).item() == 0
    assert gradient(kind(), student, teacher, none).eq(0).all()


@pytest.mark.parametrize("kind", EVERY)
def test_the_mean_divides_by_the_rows_that_have_tokens(kind: type[EmbeddingLoss]) -> None:
    student, teacher = vectors()
    objective = Objective([Term("loss", kind())])
    masks = {"inputs": MASK}
    sums = objective({EMBEDDING: student}, {EMBEDDING: teacher}, masks, Progress(0, 1))
    _, means = objective.combine(sums, objective.counts(masks), Progress(0, 1))
    assert objective.over(Part("loss", 0)) == Over(Unit.ROW, "inputs")
    torch.testing.assert_close(means["loss"], value(kind(), student, teacher).detach() / 3)


@pytest.mark.parametrize("kind", EVERY)
def test_a_student_that_equals_its_teacher_has_no_loss(kind: type[EmbeddingLoss]) -> None:
    student, _ = vectors()
    assert abs(value(kind(), student, student.detach()).item()) < 1e-14
    assert gradient(kind(), student, student.detach()).abs().max() < 1e-14


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_brought_to_float32_whatever_autocast_says(kind: type[EmbeddingLoss], dtype: torch.dtype) -> None:
    student, teacher = vectors(dtype=dtype)
    expected = value(kind(), student.float(), teacher.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = value(kind(), student, teacher)
    assert found.dtype == torch.float32 and found.item() == expected.item()
    assert gradient(kind(), student, teacher).dtype == dtype


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_zero_vectors_are_finite(kind: type[EmbeddingLoss], dtype: torch.dtype) -> None:
    student, teacher = vectors(dtype=dtype)
    nothing = torch.zeros_like(student)
    for s, t in ((nothing, teacher), (student, nothing), (nothing, nothing)):
        assert value(kind(), s.detach(), t.detach()).isfinite()
        assert gradient(kind(), s, t.detach()).isfinite().all()


@pytest.mark.parametrize("kind", OVER_ROWS)
def test_other_widths_need_a_projection_which_is_trained(kind: type[EmbeddingLoss]) -> None:
    student, teacher = vectors(5, 3)
    with pytest.raises(PlanError, match=r"5 wide.*3 wide.*needs a projection"):
        kind().check(lambda key: 5, lambda key: 3)
    with pytest.raises(OutputError, match="the student is 5 wide, the teacher 3"):
        value(kind(), student, teacher)
    projection = linear(5, 3).double()
    loss = kind(projection)
    loss.check(lambda key: 5, lambda key: 3)
    found = value(loss, student, teacher)
    found.backward()
    by_hand = student @ projection.linear.weight.T + projection.linear.bias
    torch.testing.assert_close(found, value(kind(), by_hand, teacher))
    assert len(list(loss.parameters())) == 2 and all(p.grad is not None for p in loss.parameters())


def test_the_relation_takes_any_two_widths() -> None:
    student, teacher = vectors(5, 3)
    EmbeddingRelation().check(lambda key: 5, lambda key: 3)
    assert value(EmbeddingRelation(), student, teacher).item() > 0


def test_recipes_make_each_from_its_name_and_a_projection() -> None:
    assert {name: kind.same_width for name, kind in EMBEDDING_LOSSES.items()} == {
        "cosine": True, "mse": True, "relation": False}
    for kind in EVERY:
        assert isinstance(kind().projection, nn.Identity) and kind.paper is not None and "arXiv:" in kind.paper
        assert kind().needs.student == kind().needs.teacher == {EMBEDDING}
