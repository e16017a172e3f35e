"""Losses between attention maps, beyond what every loss promises (see test_contract)."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import AttentionCE, AttentionCEMean, AttentionLoss, AttentionMSE, AttentionMSESum
from stillhouse.types import ATTENTION_SCORES, Key

from . import naive

S, T = Key(ATTENTION_SCORES, 1), Key(ATTENTION_SCORES, 5)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
MSE, CE = [AttentionMSE, AttentionMSESum], [AttentionCE, AttentionCEMean]
every_map_loss = pytest.mark.parametrize("loss", MSE + CE)
heads_together = pytest.mark.parametrize(("loss", "formula"), [
    (AttentionMSESum, naive.attention_mse_sum(S, T)), (AttentionCEMean, naive.attention_ce_mean(S, T)),
])


def scores(heads_s: int = 2, heads_t: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, heads, 3, 3, generator=generator, dtype=torch.float64)
                        for heads in (heads_s, heads_t))
    return student.requires_grad_(), teacher


def value_of(loss: type[AttentionLoss], student: Tensor, teacher: Tensor, mask: Tensor = MASK) -> Tensor:
    return loss([S], [T])({S: student}, {T: teacher}, {"inputs": mask})


def without_padded_keys(side: Tensor, low: float) -> Tensor:
    """Scores as models give them: so low at padded keys that these take no part."""
    return side.detach().masked_fill(MASK.eq(0)[:, None, None, :], low)


@every_map_loss
def test_probabilities_are_asked_for_as_scores(loss: type[AttentionLoss]) -> None:
    made = loss([Key("attention", 1)], [Key("attention", 5)])
    assert made.needs.student == {S} and made.needs.teacher == {T}
    assert loss([Key("module:encoder.attention")], [T]).needs.student == {Key("module:encoder.attention")}
    student, teacher = scores()
    assert made({S: student}, {T: teacher}, {"inputs": MASK}).item() == value_of(loss, student, teacher).item()


@heads_together
@pytest.mark.parametrize(("heads_s", "heads_t"), [(2, 3), (4, 1)])
def test_heads_may_differ_where_they_are_brought_together(loss: type[AttentionLoss], formula: naive.Naive,
                                                          heads_s: int, heads_t: int) -> None:
    student, teacher = scores(heads_s, heads_t)
    torch.testing.assert_close(value_of(loss, student, teacher), formula({S: student}, {T: teacher}, MASK))
    loss([S], [T]).check(lambda key: heads_s, lambda key: heads_t)


@pytest.mark.parametrize("loss", [AttentionMSE, AttentionCE])
def test_other_numbers_of_heads_are_refused_where_each_has_a_counterpart(loss: type[AttentionLoss]) -> None:
    with pytest.raises(OutputError, match=r"\(2, 2, 3, 3\), the teacher \(2, 3, 3, 3\); .*use attention_mse_sum or"):
        value_of(loss, *scores(2, 3))
    with pytest.raises(PlanError, match="student has 2 attention heads, the teacher 3; match maps with as many heads"):
        loss([S], [T]).check(lambda key: 2, lambda key: 3)
    loss([S], [T]).check(lambda key: 2, lambda key: 2)
    loss([S], [T]).check(lambda key: None, lambda key: 3)
    loss([S], [T]).check(lambda key: 2, lambda key: None)


@every_map_loss
def test_a_map_without_heads_is_one_head(loss: type[AttentionLoss]) -> None:
    student, teacher = scores(1, 1)
    expected = value_of(loss, student, teacher)
    torch.testing.assert_close(value_of(loss, student[:, 0], teacher[:, 0]), expected)
    torch.testing.assert_close(value_of(loss, student, teacher[:, 0]), expected)


@every_map_loss
def test_one_head_makes_every_loss_of_a_kind_the_same(loss: type[AttentionLoss]) -> None:
    other = AttentionMSE if loss in MSE else AttentionCE
    torch.testing.assert_close(value_of(loss, *scores(1, 1)), value_of(other, *scores(1, 1)))


@pytest.mark.parametrize("loss", [AttentionMSE, AttentionCE, AttentionCEMean])
def test_repeated_heads_change_nothing_where_heads_are_averaged(loss: type[AttentionLoss]) -> None:
    student, teacher = scores(1, 1)
    many = (side.repeat(1, 3, 1, 1) for side in (student, teacher))
    torch.testing.assert_close(value_of(loss, *many), value_of(loss, student, teacher))


# Distributions


@pytest.mark.parametrize("loss", CE)
@pytest.mark.parametrize("low", [-1e4, -math.inf])
def test_the_student_s_gradient_is_zero_at_the_teacher_alone(loss: type[AttentionLoss], low: float) -> None:
    _, teacher = (without_padded_keys(side, low) for side in scores())
    at_teacher, beside = teacher.clone().requires_grad_(), (teacher + torch.eye(3)).requires_grad_()
    lowest, other = value_of(loss, at_teacher, teacher), value_of(loss, beside, teacher)
    (nothing,) = torch.autograd.grad(lowest, at_teacher)
    (something,) = torch.autograd.grad(other, beside)
    assert nothing.abs().max() < 1e-12 < something.abs().max()
    assert something.isfinite().all() and other > lowest
    heads = teacher if loss is AttentionCE else teacher.mean(dim=1, keepdim=True)
    p = heads.softmax(dim=-1)
    entropy_of_queries = -torch.where(p > 0, p * p.log(), 0).sum(dim=-1).mean(dim=1)
    torch.testing.assert_close(lowest.detach(), entropy_of_queries[MASK.ne(0)].sum())


def test_logarithms_of_probabilities_stand_for_scores() -> None:
    student, teacher = scores()
    expected = value_of(AttentionCE, student, teacher)
    torch.testing.assert_close(value_of(AttentionCE, student.log_softmax(-1), teacher.softmax(-1).log()), expected)


@pytest.mark.parametrize("loss", CE)
def test_the_softmax_runs_over_all_keys_and_the_sum_over_kept_ones(loss: type[AttentionLoss]) -> None:
    student, teacher = scores()
    higher = teacher.clone()
    higher[1, :, :, 2] += 50  # a padded key that takes all the attention leaves nothing for kept ones
    first = {"inputs": MASK[:1]}
    alone = loss([S], [T])({S: student[:1]}, {T: teacher[:1]}, first)
    torch.testing.assert_close(value_of(loss, student, higher), alone)
    assert value_of(loss, student, teacher).item() > alone.item() + 0.1


@pytest.mark.parametrize("loss", CE)
def test_large_scores_stay_finite(loss: type[AttentionLoss]) -> None:
    student = torch.tensor([[[[3e4, -3e4], [0.0, 0.0]]]], requires_grad=True)
    value = value_of(loss, student, -student.detach(), torch.ones(1, 2))
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


# Shapes


@every_map_loss
@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (2, 2, 2, 2), (1, 2, 3, 3), (2, 3), (2, 1, 2, 3, 3)])
def test_maps_of_other_positions_than_the_mask_are_refused(loss: type[AttentionLoss], shape: tuple[int, ...]) -> None:
    good, bad = torch.zeros(2, 2, 3, 3), torch.zeros(shape)
    found = re.escape(str(shape))
    for side, pair in (("student", (bad, good)), ("teacher", (good, bad))):
        with pytest.raises(OutputError, match=rf"the {side} gives {found}, the mask is \(2, 3\); an attention map is"):
            value_of(loss, *pair)


@every_map_loss
def test_a_match_is_one_map_a_side_and_has_no_projection(loss: type[AttentionLoss]) -> None:
    with pytest.raises(PlanError, match=r"takes 1 layer\(s\) of the student, not 2"):
        loss([S, S], [T])
    with pytest.raises(PlanError, match=r"takes 1 layer\(s\) of the teacher, not 0"):
        loss([S], [])
    assert not list(loss([S], [T]).parameters())
