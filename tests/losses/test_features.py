"""Losses between layers: projections, shapes, and the members of the family beyond the common contract."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import NST, PKD, Cosine, FeatureLoss, HiddenMSE
from stillhouse.projections import linear, tanh
from stillhouse.types import Key

A, B = Key("hidden", 1), Key("hidden", 2)
ONE_LAYER = [HiddenMSE, Cosine, PKD]
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def made(loss: type[FeatureLoss], projection: nn.Module | None = None) -> FeatureLoss:
    return loss([A] * loss.num_layers, [B] * loss.num_layers, projection)


def states(width_s: int = 4, width_t: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, width_s, generator=generator, dtype=torch.float64).to(dtype)
    teacher = torch.randn(2, 3, width_t, generator=generator, dtype=torch.float64).to(dtype)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("loss", ONE_LAYER)
def test_the_student_is_projected_and_the_teacher_is_not(loss: type[FeatureLoss]) -> None:
    student, teacher = states(4, 6)
    projection = tanh(4, 6).double()
    found = made(loss, projection)({A: student}, {B: teacher}, {"inputs": MASK})
    by_hand = (student @ projection.linear.weight.T + projection.linear.bias).tanh()
    torch.testing.assert_close(found, made(loss)({A: by_hand}, {B: teacher}, {"inputs": MASK}))


@pytest.mark.parametrize("loss", [*ONE_LAYER, NST])
def test_projections_are_trained_and_padding_stays_out_of_them(loss: type[FeatureLoss]) -> None:
    def gradients(content: float) -> list[Tensor]:
        torch.manual_seed(0)
        student, teacher = states()
        dirty = student.detach().masked_fill(MASK.eq(0).unsqueeze(-1), content)
        member = made(loss, linear(4, 4).double())
        member({A: dirty}, {B: teacher}, {"inputs": MASK}).backward()
        return [p.grad for p in member.parameters() if p.grad is not None]

    clean = gradients(0.0)
    assert len(clean) == 2 and all(gradient.abs().sum() > 0 for gradient in clean)
    for content in (5.0, math.nan, math.inf):
        for expected, gradient in zip(clean, gradients(content), strict=True):
            torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("loss", [*ONE_LAYER, NST])
def test_an_empty_mask_gives_the_projection_a_gradient_of_zero(loss: type[FeatureLoss]) -> None:
    student, teacher = states()
    member = made(loss, linear(4, 4).double())
    value = member({A: student}, {B: teacher}, {"inputs": torch.zeros_like(MASK)})
    value.backward()
    assert value.item() == 0
    assert all(p.grad is not None and p.grad.eq(0).all() for p in (*member.parameters(), student))


@pytest.mark.parametrize("loss", [*ONE_LAYER, NST])
def test_the_projection_runs_under_autocast_and_the_loss_does_not(loss: type[FeatureLoss]) -> None:
    student, teacher = states(dtype=torch.float32)
    member = made(loss, linear(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        found = member({A: student}, {B: teacher}, {"inputs": MASK})
        projected = member.projection(student)
    assert projected.dtype == torch.bfloat16 and found.dtype == torch.float32
    torch.testing.assert_close(found, made(loss)({A: projected.float()}, {B: teacher}, {"inputs": MASK}))


@pytest.mark.parametrize("loss", ONE_LAYER)
def test_other_widths_without_a_projection_are_refused_with_the_remedy(loss: type[FeatureLoss]) -> None:
    student, teacher = states(4, 6)
    with pytest.raises(OutputError, match=r"4 wide, the teacher 6; add a projection, proj: \[linear, 4, 6\]"):
        made(loss)({A: student}, {B: teacher}, {"inputs": MASK})
    with pytest.raises(PlanError, match=r"needs a projection: in a configuration, proj: \[linear, 4, 6\]"):
        made(loss).check(lambda key: 4, lambda key: 6)
    made(loss).check(lambda key: None, lambda key: 6)
    made(loss, linear(4, 6)).check(lambda key: 4, lambda key: 6)
    made(loss, nn.Linear(4, 5)).check(lambda key: 4, lambda key: 6)  # a module of the user's: only its output can tell


@pytest.mark.parametrize("loss", [*ONE_LAYER, NST])
def test_a_projection_for_another_student_is_refused(loss: type[FeatureLoss]) -> None:
    with pytest.raises(PlanError, match="expects a student width of 5, but the student is 4 wide"):
        made(loss, linear(5, 6)).check(lambda key: 4, lambda key: 6)


@pytest.mark.parametrize("loss", ONE_LAYER)
def test_a_projection_to_another_teacher_is_refused(loss: type[FeatureLoss]) -> None:
    with pytest.raises(PlanError, match=r"\(5 wide\) and teacher hidden\[2\] \(6 wide\)"):
        made(loss, linear(4, 5)).check(lambda key: 4, lambda key: 6)


def test_similarities_do_not_depend_on_the_width() -> None:
    student, teacher = states(4, 6)
    made(NST).check(lambda key: 4, lambda key: 6)
    assert made(NST)({A: student}, {B: teacher}, {"inputs": MASK}).isfinite()
    padded = torch.cat([student, torch.zeros(2, 3, 4, dtype=torch.float64)], dim=-1) * math.sqrt(2)
    torch.testing.assert_close(made(NST)({A: padded}, {B: teacher}, {"inputs": MASK}),
                               made(NST)({A: student}, {B: teacher}, {"inputs": MASK}))


@pytest.mark.parametrize("loss", [*ONE_LAYER, NST])
def test_layers_over_other_positions_are_refused(loss: type[FeatureLoss]) -> None:
    student, teacher = states()
    with pytest.raises(OutputError, match=r"\(2, 3, 4\) and \(2, 2, 4\) do not cover the same positions"):
        made(loss)({A: student}, {B: teacher[:, :2]}, {"inputs": MASK})
    with pytest.raises(OutputError, match=r"hidden\[1\] has shape \(2, 3, 4\) but its mask \(2, 2\)"):
        made(loss)({A: student}, {B: teacher}, {"inputs": MASK[:, :2]})


@pytest.mark.parametrize("loss", [*ONE_LAYER, NST])
def test_the_number_of_layers_is_checked(loss: type[FeatureLoss]) -> None:
    number = loss.num_layers
    with pytest.raises(PlanError, match=rf"takes {number} layer\(s\) of the student, not {number + 1}"):
        loss([A] * (number + 1), [B] * number)
    with pytest.raises(PlanError, match=rf"takes {number} layer\(s\) of the teacher, not 0"):
        loss([A] * number, [])


@pytest.mark.parametrize("loss", ONE_LAYER)
def test_one_vector_a_row_is_a_sequence_of_length_one(loss: type[FeatureLoss]) -> None:
    student, teacher = states()
    mask: dict[str, Any] = {"inputs": torch.tensor([[1], [1]])}
    found = made(loss)({A: student[:, 0]}, {B: teacher[:, 0]}, mask)
    torch.testing.assert_close(found, made(loss)({A: student[:, :1]}, {B: teacher[:, :1]}, mask))


@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_a_zero_vector_counts_one_and_has_no_nan(zero: str) -> None:
    student, teacher = torch.ones(1, 1, 4), torch.ones(1, 1, 4)
    student = (student * (0 if zero in ("student", "both") else 1)).requires_grad_()
    teacher = teacher * (0 if zero in ("teacher", "both") else 1)
    value = made(Cosine)({A: student}, {B: teacher}, {"inputs": torch.ones(1, 1)})
    value.backward()
    assert value.item() == 1 and student.grad is not None and student.grad.isfinite().all()


def test_scale_does_not_change_directions() -> None:
    student, teacher = states()
    for loss in (Cosine, PKD):
        torch.testing.assert_close(made(loss)({A: 7 * student}, {B: 0.1 * teacher}, {"inputs": MASK}),
                                   made(loss)({A: student}, {B: teacher}, {"inputs": MASK}))


def test_a_masked_first_position_leaves_its_row_out() -> None:
    student, teacher = states()
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    found = made(PKD)({A: student}, {B: teacher}, {"inputs": mask})
    torch.testing.assert_close(found, made(PKD)({A: student[1:]}, {B: teacher[1:]}, {"inputs": mask[1:]}))
