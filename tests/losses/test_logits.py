"""Losses between logits, beyond what every loss promises (see test_contract)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import BernoulliKL, ForwardKL, FunctionLogitsLoss, LogitMSE, LogitsLoss, SoftCrossEntropy
from stillhouse.losses.logits import KDLoss, shifted
from stillhouse.losses.temperature import CWSM, FLSW, Strategy
from stillhouse.types import LABELS, LOGITS, Key, Over, Unit

LOGITS_LOSSES = [SoftCrossEntropy, ForwardKL, BernoulliKL, LogitMSE]
ONES = {"logits": torch.ones(2, 3)}


def pair(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 2, 3, 5, generator=generator, dtype=torch.float64).to(dtype)
    return student.clone().requires_grad_(), teacher.clone()


def gradient_of(loss: LogitsLoss, student: Tensor, teacher: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss({LOGITS: student}, {LOGITS: teacher}, ONES), student)
    return gradient


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2, 8.0])
def test_the_gradient_of_kl_is_that_of_soft_cross_entropy_times_the_squared_temperature(temperature: float) -> None:
    student, teacher = pair()
    expected = temperature**2 * gradient_of(SoftCrossEntropy(temperature), student, teacher)
    torch.testing.assert_close(gradient_of(ForwardKL(temperature), student, teacher), expected, atol=1e-12, rtol=1e-9)


def test_soft_cross_entropy_is_kl_plus_the_teacher_s_entropy() -> None:
    student, teacher = pair()
    p = (teacher / 4.0).softmax(dim=-1)
    entropy = -(p * p.log()).sum()
    soft = SoftCrossEntropy(4.0)({LOGITS: student}, {LOGITS: teacher}, ONES)
    kl = ForwardKL(4.0)({LOGITS: student}, {LOGITS: teacher}, ONES) / 16
    torch.testing.assert_close(soft, kl + entropy)


def test_the_size_of_kl_s_gradient_hardly_depends_on_a_high_temperature() -> None:
    student, teacher = pair()
    warm, hot = (gradient_of(ForwardKL(t), student, teacher).norm().item() for t in (50.0, 500.0))
    assert hot == pytest.approx(warm, rel=0.05)


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 1), (2, 3, 1)])
def test_temperatures_may_be_tensors(loss: type[LogitsLoss], shape: tuple[int, ...]) -> None:
    student, teacher = pair()
    temperatures = torch.linspace(1, 6, math.prod(shape), dtype=torch.float64).reshape(shape)
    found_BL = loss.per_token(student, teacher, temperatures)
    each_BL1 = temperatures.expand(2, 3, 1) if shape else temperatures.expand(2, 3).unsqueeze(-1)
    for b in range(2):
        for i in range(3):
            one_s, one_t = student[b, i].reshape(1, 1, -1), teacher[b, i].reshape(1, 1, -1)
            one = loss.per_token(one_s, one_t, each_BL1[b, i].item())
            torch.testing.assert_close(found_BL[b, i], one[0, 0])


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_a_scalar_tensor_is_a_temperature(loss: Callable[..., LogitsLoss]) -> None:
    student, teacher = pair()
    sides: tuple[Any, ...] = {LOGITS: student}, {LOGITS: teacher}, ONES
    torch.testing.assert_close(loss(torch.tensor(3.0))(*sides), loss(3.0)(*sides))


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_a_temperature_not_above_zero_is_refused(loss: type[LogitsLoss], temperature: float) -> None:
    with pytest.raises(PlanError, match="must be above 0"):
        loss(temperature)


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_large_logits_stay_finite(loss: type[LogitsLoss]) -> None:
    student = torch.tensor([[[3e4, -3e4]]], requires_grad=True)
    value = loss(1.0)({LOGITS: student}, {LOGITS: torch.tensor([[[-3e4, 3e4]]])}, {"logits": torch.ones(1, 1)})
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_the_temperature_divides_both_sides(loss: type[LogitsLoss]) -> None:
    student, teacher = pair()
    found = loss(4.0)({LOGITS: 4 * student}, {LOGITS: 4 * teacher}, ONES)
    scale = 16 if loss in (ForwardKL, BernoulliKL) else 1
    torch.testing.assert_close(found, scale * loss(1.0)({LOGITS: student}, {LOGITS: teacher}, ONES))


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_another_head_has_its_own_key_and_mask(loss: type[LogitsLoss]) -> None:
    second, made = Key("logits", 1), loss(2.0, head=1)
    student, teacher = pair()
    assert made.over == Over(Unit.TOKEN, "logits.1")
    assert made.needs.student == made.needs.teacher == {second}
    found = made({second: student}, {second: teacher}, {"logits.1": ONES["logits"]})
    assert found.item() == loss(2.0)({LOGITS: student}, {LOGITS: teacher}, ONES).item()


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_different_class_counts_are_refused_with_the_remedy(loss: type[LogitsLoss]) -> None:
    with pytest.raises(OutputError, match=r"\(2, 3, 5\), the teacher \(2, 3, 6\); both models must predict the same"):
        loss()({LOGITS: torch.zeros(2, 3, 5)}, {LOGITS: torch.zeros(2, 3, 6)}, ONES)
    with pytest.raises(PlanError, match=r"student predicts 5 labels, the teacher 6; both models must predict the same"):
        loss().check(lambda key: 5, lambda key: 6)
    loss().check(lambda key: None, lambda key: 6)
    loss().check(lambda key: 6, lambda key: 6)


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_a_mask_of_other_positions_is_refused(loss: type[LogitsLoss]) -> None:
    with pytest.raises(OutputError, match=r"logits\[0\] has shape \(2, 1, 5\) but its mask \(2, 3\)"):
        loss()({LOGITS: torch.zeros(2, 5)}, {LOGITS: torch.zeros(2, 5)}, ONES)


# The teacher's largest logit at the right class


def test_the_label_s_logit_changes_places_with_the_largest() -> None:
    teacher = torch.tensor([[[1.0, 5.0, 3.0], [1.0, 5.0, 3.0], [7.0, 5.0, 3.0]]])
    found = shifted(teacher, torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool))
    assert found.tolist() == [[[5.0, 1.0, 3.0], [1.0, 5.0, 3.0], [3.0, 5.0, 7.0]]]


def test_a_tie_with_the_largest_changes_nothing() -> None:
    teacher = torch.tensor([[[2.0, 2.0, 1.0], [2.0, 2.0, 1.0], [0.0, 0.0, 0.0]]])
    found = shifted(teacher, torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool))
    assert found.equal(teacher)
    lower = shifted(teacher[:, :1], torch.tensor([[2]]), torch.ones(1, 1, dtype=torch.bool))
    assert lower[0, 0, 2] == 2 and lower.sort().values.equal(teacher[:, :1].sort().values)


@pytest.mark.parametrize("label", [-100, -1])
def test_a_negative_label_leaves_the_teacher_alone(label: int) -> None:
    _, teacher = pair()
    found = shifted(teacher, torch.full((2, 3), label), torch.ones(2, 3, dtype=torch.bool))
    assert found.equal(teacher)


def test_positions_that_the_mask_leaves_out_stay_whatever_their_label() -> None:
    _, teacher = pair()
    labels = torch.tensor([[0, 99, 4], [-100, 2, 99]])
    kept = torch.tensor([[True, False, True], [True, True, False]])
    found = shifted(teacher, labels, kept)
    assert found[~kept].equal(teacher[~kept])
    for b, i in ((0, 0), (0, 2), (1, 1)):
        assert found[b, i].argmax() == labels[b, i]
        assert found[b, i].sort().values.equal(teacher[b, i].sort().values)


def test_a_kept_label_that_is_no_class_is_refused() -> None:
    _, teacher = pair()
    labels, kept = torch.tensor([[0, 99, 4], [1, 5, 2]]), torch.tensor([[True, False, True], [True, True, True]])
    with pytest.raises(OutputError, match="probability_shift: label 5 is none of the 5 classes"):
        shifted(teacher, labels, kept)


def test_shifting_leaves_its_input_as_it_was() -> None:
    student, teacher = pair()
    before = teacher.clone()
    labels = torch.tensor([[0, 1, 4], [3, -100, 1]])
    shifted(teacher, labels, torch.ones(2, 3, dtype=torch.bool))
    ForwardKL(2.0, probability_shift=True)({LOGITS: student, LABELS: labels}, {LOGITS: teacher}, ONES)
    assert teacher.equal(before)


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_a_loss_shifts_the_teacher_and_not_the_student(loss: type[LogitsLoss]) -> None:
    student, teacher = pair()
    labels = torch.tensor([[0, 1, 4], [3, -100, 1]])
    by_hand = shifted(teacher, labels, torch.ones(2, 3, dtype=torch.bool))
    assert not by_hand.equal(teacher)
    found = loss(3.0, probability_shift=True)({LOGITS: student, LABELS: labels}, {LOGITS: teacher}, ONES)
    assert found.item() == loss(3.0)({LOGITS: student}, {LOGITS: by_hand}, ONES).item()


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_shifting_needs_labels_of_the_student_one_for_each_prediction(loss: type[LogitsLoss]) -> None:
    student, teacher = pair()
    assert loss(probability_shift=True).needs.student == {LOGITS, LABELS}
    assert loss(probability_shift=True).needs.teacher == loss().needs.student == {LOGITS}
    with pytest.raises(OutputError, match=r"labels have shape \(2,\), the logits of \(rows, positions\) \(2, 3\)"):
        loss(probability_shift=True)({LOGITS: student, LABELS: torch.tensor([0, 1])}, {LOGITS: teacher}, ONES)


# A temperature for each prediction


def mean_of_differences(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    return ((student - teacher).abs().sum(dim=-1) / temperature).mean()


def with_strategy(strategy: Strategy, shift: bool) -> list[KDLoss]:
    settings: dict[str, Any] = {"strategy": strategy, "probability_shift": shift}
    return [*(loss(3.0, **settings) for loss in LOGITS_LOSSES),
            FunctionLogitsLoss(mean_of_differences, 3.0, **settings)]


@pytest.mark.parametrize("strategy", [FLSW(2.0, 2.0), CWSM(1.0)], ids=str)
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("content", [0.0, 50.0, math.nan])
def test_a_strategy_sees_the_kept_predictions_alone(strategy: Strategy, shift: bool, content: float) -> None:
    student, teacher = pair()
    kept = torch.tensor([[True, False, True], [True, True, False]])
    labels = torch.tensor([[0, 99, 4], [-100, 2, 99]])
    dirty_s, dirty_t = (side.detach().masked_fill(~kept.unsqueeze(-1), content) for side in (student, teacher))
    dirty_s.requires_grad_()
    for loss in with_strategy(strategy, shift):
        found = loss({LOGITS: dirty_s, LABELS: labels}, {LOGITS: dirty_t}, {"logits": kept})
        alone = {LOGITS: student[kept], LABELS: labels[kept]}
        expected = loss(alone, {LOGITS: teacher[kept]}, {"logits": torch.ones(4, 1)})
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, dirty_s), torch.autograd.grad(expected, student))


def test_a_strategy_makes_a_loss_depend_on_the_rows_beside() -> None:
    for loss in with_strategy(FLSW(2.0, 2.0), shift=False):
        assert loss.scope == "batch"
    for loss in (ForwardKL(), ForwardKL(strategy=None, probability_shift=True)):
        assert loss.scope == "rows"


# Where there is no class


@pytest.mark.parametrize("loss", [SoftCrossEntropy, ForwardKL, LogitMSE])
@pytest.mark.parametrize("strategy", [None, FLSW(1.0, 2.0), CWSM(1.0)])
def test_classes_that_neither_side_has_are_as_if_they_were_not_there(loss: Any, strategy: Strategy | None) -> None:
    student, teacher = pair()
    there = torch.tensor([True, False, True, True, False])
    wide_s = student.detach().masked_fill(~there, -math.inf).requires_grad_()
    wide_t = teacher.masked_fill(~there, -math.inf)
    narrow_s = student.detach()[..., there].clone().requires_grad_()
    found = loss(2.0, strategy=strategy)({LOGITS: wide_s}, {LOGITS: wide_t}, ONES)
    expected = loss(2.0, strategy=strategy)({LOGITS: narrow_s}, {LOGITS: teacher[..., there]}, ONES)
    torch.testing.assert_close(found, expected)
    for value in (found, expected):
        value.backward()
    assert wide_s.grad is not None and narrow_s.grad is not None
    torch.testing.assert_close(wide_s.grad[..., there], narrow_s.grad)
    assert wide_s.grad[..., ~there].eq(0).all()


# Several labels


def test_classes_of_several_labels_do_not_compete() -> None:
    student, teacher = pair()
    whole = BernoulliKL(2.0)({LOGITS: student}, {LOGITS: teacher}, ONES)
    each = [BernoulliKL(2.0)({LOGITS: student[..., [c]]}, {LOGITS: teacher[..., [c]]}, ONES) for c in range(5)]
    torch.testing.assert_close(whole, sum(each) / 5)
    shift = torch.full((5,), 3.0, dtype=torch.float64)
    assert BernoulliKL(2.0)({LOGITS: student + shift}, {LOGITS: student.detach()}, ONES).item() > 0.1


def test_one_label_s_bernoulli_kl_is_that_of_two_classes() -> None:
    student, teacher = (side[..., :1] for side in pair())
    found = BernoulliKL(3.0)({LOGITS: student}, {LOGITS: teacher}, ONES)
    pairs = [torch.cat([side, torch.zeros_like(side)], dim=-1) for side in (student, teacher)]
    torch.testing.assert_close(found, ForwardKL(3.0)({LOGITS: pairs[0]}, {LOGITS: pairs[1]}, ONES))
