"""A user's functions and a user's own losses, normalised as the package's are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import FunctionLogitsLoss, FunctionLoss, UserLosses
from stillhouse.projections import linear
from stillhouse.types import LABELS, LOGITS, USER_LOSSES, Key, Over, Unit

A, B, C, D = (Key("hidden", layer) for layer in range(4))
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def tensors(number: int, *shape: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(number, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def masked_mean(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    assert mask is not None
    return ((student - teacher).square().mean(dim=-1) * mask).sum() / mask.sum()


def row_mean(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    return (student[:, 0] - teacher[:, 0]).square().sum(dim=-1).mean()


def test_a_mean_over_tokens_becomes_a_sum_over_tokens() -> None:
    student, teacher = tensors(2, 2, 3, 4)
    found = FunctionLoss(masked_mean, [A], [B])({A: student}, {B: teacher}, {"inputs": MASK})
    expected = sum((student[b, i] - teacher[b, i]).square().mean() for b in range(2) for i in range(3) if MASK[b, i])
    torch.testing.assert_close(found, expected)


def test_a_mean_over_rows_becomes_a_sum_over_rows() -> None:
    student, teacher = tensors(2, 2, 3, 4)
    loss = FunctionLoss(row_mean, [A], [B], unit=Unit.ROW)
    assert loss.over == Over(Unit.ROW, "inputs")
    expected = sum((student[b, 0] - teacher[b, 0]).square().sum() for b in range(2))
    torch.testing.assert_close(loss({A: student}, {B: teacher}, {"inputs": MASK}), expected)


def test_one_layer_is_a_tensor_and_several_are_a_list() -> None:
    seen: list[Any] = []

    def function(student: Any, teacher: Any, mask: Tensor) -> Tensor:
        seen.append((student, teacher))
        return student[0].sum() * 0 + teacher[0].sum() * 0

    one, two, three, four = tensors(4, 2, 3, 4)
    FunctionLoss(function, [A], [B])({A: one}, {B: two}, {"inputs": MASK})
    FunctionLoss(function, [A, B], [C, D])({A: one, B: two}, {C: three, D: four}, {"inputs": MASK})
    assert seen[0][0].equal(one) and seen[0][1].equal(two)
    assert [t.tolist() for t in seen[1][0]] == [one.tolist(), two.tolist()]
    assert [t.tolist() for t in seen[1][1]] == [three.tolist(), four.tolist()]


def test_every_layer_of_the_student_is_projected() -> None:
    projection = linear(4, 6).double()
    s1, s2 = tensors(2, 2, 3, 4)
    t1, t2 = tensors(2, 2, 3, 6)

    def function(student: Any, teacher: Any, mask: Tensor) -> Tensor:
        return masked_mean(student[0], teacher[0], mask) + 2 * masked_mean(student[1], teacher[1], mask)

    found = FunctionLoss(function, [A, B], [C, D], projection)({A: s1, B: s2}, {C: t1, D: t2}, {"inputs": MASK})
    expected = 5 * function([projection(s1), projection(s2)], [t1, t2], MASK)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projection.parameters())


def test_a_function_is_not_called_over_nothing_and_every_layer_keeps_its_graph() -> None:
    def refuse(student: Any, teacher: Any, mask: Tensor) -> Tensor:
        raise AssertionError("called over no position: a mean would be NaN")

    leaves = [t.clone().fill_(math.nan).requires_grad_() for t in tensors(2, 2, 3, 4)]
    loss = FunctionLoss(refuse, [A, B], [A, B])
    value = loss({A: leaves[0], B: leaves[1]}, {A: leaves[0], B: leaves[1]}, {"inputs": torch.zeros(2, 3)})
    value.backward()
    assert value.item() == 0
    assert all(leaf.grad is not None and leaf.grad.eq(0).all() for leaf in leaves)


def test_a_function_of_logits_sees_the_kept_positions_alone() -> None:
    seen: list[Any] = []

    def function(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        seen.append((student, teacher, temperature))
        return (student - teacher).square().mean()

    student, teacher = tensors(2, 2, 3, 4)
    found = FunctionLogitsLoss(function, 5.0)({LOGITS: student}, {LOGITS: teacher}, {"logits": MASK})
    (student_NC, teacher_NC, temperature), = seen
    assert student_NC.equal(student[MASK.ne(0)]) and teacher_NC.equal(teacher[MASK.ne(0)]) and temperature == 5.0
    torch.testing.assert_close(found, 5 * (student_NC - teacher_NC).square().mean())


def test_a_function_of_logits_is_not_called_over_nothing() -> None:
    def refuse(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        raise AssertionError("called over no position")

    student = torch.full((2, 3, 4), math.nan, requires_grad=True)
    value = FunctionLogitsLoss(refuse)({LOGITS: student}, {LOGITS: student}, {"logits": torch.zeros(2, 3)})
    value.backward()
    assert value.item() == 0 and student.grad is not None and student.grad.eq(0).all()


def test_logits_and_masks_that_do_not_fit_are_refused() -> None:
    loss = FunctionLogitsLoss(lambda student, teacher, temperature: student.sum())
    good, short = torch.zeros(2, 3, 4), torch.zeros(2, 2, 4)
    with pytest.raises(OutputError, match=r"the student's logits\[0\] has shape \(2, 2, 4\) but its mask \(2, 3\)"):
        loss({LOGITS: short}, {LOGITS: good}, {"logits": MASK})
    with pytest.raises(OutputError, match=r"the teacher's logits\[0\] has shape \(2, 2, 4\) but its mask \(2, 3\)"):
        loss({LOGITS: good}, {LOGITS: short}, {"logits": MASK})
    with pytest.raises(PlanError, match="student predicts 2 labels, the teacher 3"):
        loss.check(lambda key: 2, lambda key: 3)


# Losses that the user's own model computed


def test_a_user_s_mean_is_weighted_by_its_labels() -> None:
    mean = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    value = UserLosses()({USER_LOSSES: mean}, {}, {"losses": torch.tensor([[1, 0, 1], [1, 0, 0]])})
    value.backward()
    assert value.item() == 0.75 and mean.grad is not None and mean.grad.item() == 3


@pytest.mark.parametrize("others", [True, False])
def test_zero_labels_are_zero_with_a_graph_although_the_user_s_mean_is_nan(others: bool) -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    logits = weight * torch.ones(2, 2)
    labels = torch.tensor([-100, -100])
    mean = torch.nn.functional.cross_entropy(logits, labels)
    assert mean.isnan()
    features = {USER_LOSSES: mean, LABELS: labels} | ({LOGITS: logits} if others else {})
    value = UserLosses()(features, {}, {"losses": labels.ge(0).unsqueeze(1)})
    value.backward()
    assert value.item() == 0 and weight.grad is not None and weight.grad.eq(0).all()


def test_zero_labels_do_not_bring_in_a_nan_from_other_outputs() -> None:
    logits = torch.full((2, 2), math.inf, requires_grad=True)
    mean = (logits * 0).sum()
    value = UserLosses()({USER_LOSSES: mean, LOGITS: logits}, {}, {"losses": torch.zeros(2, 1)})
    value.backward()
    assert value.item() == 0 and logits.grad is not None and logits.grad.eq(0).all()
