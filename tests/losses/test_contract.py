"""What every loss promises: a plain sum of its formula over kept units, and nothing of what the mask leaves out."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import stillhouse.losses
from stillhouse.losses import BinaryLabels, CostAttentionEMD, Loss, SquaredError, UserLosses
from stillhouse.losses.embeddings import EMBEDDING_LOSSES
from stillhouse.losses.logits import KDLoss
from stillhouse.objective import Objective, Part, Term
from stillhouse.types import LABELS, LOGITS, Progress, Unit

from .cases import (
    CASES,
    OVER_MICRO_BATCHES,
    Case,
    case_of,
    every_loss,
    every_loss_over_micro_batches,
    every_sum_over_rows,
)
from .naive import Side
from .sides import MASK, TWINS, Sides, alone, cropped, places, sides

ROWS = range(len(MASK))


def in_rows(gradients: list[Side]) -> Side:
    return {key: torch.cat([each[key] for each in gradients]) for key in gradients[0]}


def test_every_loss_is_held_to_the_contract() -> None:
    shipped = {kind for name in stillhouse.losses.__all__ if not inspect.isabstract(
        kind := getattr(stillhouse.losses, name))}
    of_rows = {BinaryLabels, SquaredError, *EMBEDDING_LOSSES.values()}  # see test_labels and test_embeddings
    assert shipped - {UserLosses} - of_rows == {type(case.make()) for case in CASES}


@every_loss
def test_value_and_gradient_equal_a_loop_over_positions(case: Case) -> None:
    value, gradients = sides().value_and_gradients(case.make())
    again = sides()
    expected = case.naive(again.student, again.teacher, again.mask)
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), atol=1e-10, rtol=1e-10)
    assert gradients and set(gradients) == {key for key, leaf in again.student.items() if leaf.grad is not None}
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, again.student[key].grad, atol=1e-10, rtol=1e-10)


# How rows are put together


def test_the_losses_that_are_no_sums_over_rows_say_so() -> None:
    assert {case.name for case in CASES if case.make().scope == "batch"} == OVER_MICRO_BATCHES


@every_sum_over_rows
def test_the_value_is_a_sum_over_rows(case: Case) -> None:
    value, gradients = sides().value_and_gradients(case.make())
    found = [sides().row(b).value_and_gradients(case.make()) for b in ROWS]
    torch.testing.assert_close(sum(row_value for row_value, _ in found), value)
    for key, gradient in in_rows([row_gradients for _, row_gradients in found]).items():
        torch.testing.assert_close(gradient, gradients[key])


@every_loss_over_micro_batches
def test_the_excepted_losses_do_depend_on_the_rows_beside(case: Case) -> None:
    apart = sum(sides().row(b).value(case.make()).item() for b in ROWS)
    assert apart != pytest.approx(sides().value(case.make()).item(), rel=1e-5)


def mean_and_gradients(case: Case, micro_batches: list[Sides], window: Sides) -> tuple[Tensor, list[Side]]:
    """As the loop has it: one count for a window, each micro-batch's sum divided by it and backward."""
    objective, progress = Objective([Term("loss", case.make())]), Progress(0, 1)
    counts = objective.counts(window.masks())
    means = []
    for part in micro_batches:
        total, _ = objective.combine(objective(part.student, part.teacher, part.masks(), progress), counts, progress)
        assert total is not None
        total.backward()
        means.append(total.detach())
    return torch.stack(means).sum(), [{key: leaf.grad for key, leaf in part.student.items() if leaf.grad is not None}
                                      for part in micro_batches]


@every_sum_over_rows
def test_accumulation_changes_neither_the_mean_nor_its_gradient(case: Case) -> None:
    whole = sides()
    mean, (gradients,) = mean_and_gradients(case, [whole], whole)
    found, by_row = mean_and_gradients(case, [sides().row(b) for b in ROWS], whole)
    torch.testing.assert_close(found, mean)
    for key, gradient in in_rows(by_row).items():
        torch.testing.assert_close(gradient, gradients[key])


@every_loss
def test_the_mean_is_the_formula_divided_by_the_units(case: Case) -> None:
    whole, loss = sides(), case.make()
    mean, _ = mean_and_gradients(case, [whole], whole)
    lengths = [3, 5, 3]
    units = {Unit.ROW: 3, Unit.TOKEN: sum(lengths), Unit.PAIR: sum(length**2 for length in lengths)}
    expected = case.naive(whole.student, whole.teacher, MASK) / units[loss.over.unit]
    torch.testing.assert_close(mean, expected.detach())


@every_loss
def test_what_is_read_is_what_is_declared(case: Case) -> None:
    loss, everything = case.make(), sides()
    only = Sides({key: everything.student[key] for key in loss.needs.student},
                 {key: everything.teacher[key] for key in loss.needs.teacher}, MASK)
    narrow = loss(only.student, only.teacher, {loss.over.mask: MASK})
    assert loss.over in loss.overs
    assert narrow.item() == everything.value(loss).item()


# Padding


@every_loss
def test_more_padding_changes_nothing(case: Case) -> None:
    value, gradients = sides().value_and_gradients(case.make())
    wide = sides().widened(2)
    wide_value, wide_gradients = wide.value_and_gradients(case.make())
    length = MASK.shape[1]
    added = torch.cat([torch.ones_like(MASK), torch.zeros_like(MASK[:, :2])], dim=1)
    torch.testing.assert_close(wide_value, value)
    for key, gradient in wide_gradients.items():
        torch.testing.assert_close(cropped(key, gradient, length), gradients[key])
        assert gradient.masked_fill(places(key, added), 0).eq(0).all()


@every_loss
@pytest.mark.parametrize("content", [math.nan, math.inf, -math.inf])
def test_nothing_leaks_out_of_padding(case: Case, content: float) -> None:
    value, gradients = case.padded(sides(), 0.5).value_and_gradients(case.make())
    dirty_value, dirty = case.padded(sides(), content).value_and_gradients(case.make())
    assert dirty_value.item() == value.item()
    for key, gradient in dirty.items():
        assert gradient.equal(gradients[key]), key
        assert gradient.masked_fill(places(key, MASK), 0).eq(0).all()


@every_loss
@pytest.mark.parametrize("content", [1.0, math.nan])
def test_an_empty_mask_gives_zero_with_a_graph_and_no_gradient(case: Case, content: float) -> None:
    empty = case.padded(replace(sides(), mask=torch.zeros_like(MASK)), content)
    loss = case.make()
    value, gradients = empty.value_and_gradients(loss)
    loss.after_step(alone)
    assert value.item() == 0 and gradients
    assert all(gradient.eq(0).all() for gradient in gradients.values())
    assert all(buffer.isfinite().all() for buffer in loss.buffers())


@every_loss
def test_an_empty_row_adds_nothing(case: Case) -> None:
    filled = replace(sides(), mask=MASK * torch.tensor([[1], [0], [1]]))
    value, gradients = case.padded(filled, math.nan).value_and_gradients(case.make())
    other = case.padded(filled, 0.5)
    without = Sides({key: v[[0, 2]].detach() for key, v in other.student.items()},
                    {key: v[[0, 2]] for key, v in other.teacher.items()}, MASK[[0, 2]])
    torch.testing.assert_close(value, without.value(case.make()))
    assert all(gradient[1].eq(0).all() for gradient in gradients.values())


@every_loss
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_of_any_type_do(case: Case, dtype: torch.dtype) -> None:
    assert replace(sides(), mask=MASK.to(dtype)).value(case.make()).item() == sides().value(case.make()).item()


# Special values


@pytest.mark.parametrize("case", [case for case in CASES if case.zero_at_equality], ids=lambda case: case.name)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(case: Case) -> None:
    twins = sides()
    twins.teacher.update({key: twins.student[own].detach() for key, own in TWINS.items()})
    value, gradients = twins.value_and_gradients(case.make())
    assert abs(value.item()) < 1e-14
    assert gradients and all(gradient.abs().max() < 1e-14 for gradient in gradients.values())


@every_loss
@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_zero_vectors_are_finite(case: Case, zero: str, dtype: torch.dtype) -> None:
    whole = sides(dtype)
    nothing = whole.map(lambda key, value: torch.zeros_like(value))
    found = replace(nothing, teacher=whole.teacher) if zero == "student" else (
        replace(nothing, student=whole.student) if zero == "teacher" else nothing)
    value, gradients = found.value_and_gradients(case.make())
    assert value.isfinite() and gradients
    assert all(gradient.isfinite().all() for gradient in gradients.values())


# Number types


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_brought_to_float32(case: Case, dtype: torch.dtype) -> None:
    half = sides(dtype)
    value, gradients = half.value_and_gradients(case.make())
    expected, full = half.to(torch.float32).value_and_gradients(case.make())
    assert value.dtype == torch.float32 and value.item() == expected.item()
    for key, gradient in gradients.items():
        assert gradient.dtype == dtype and gradient.equal(full[key].to(dtype))


@every_loss
def test_float64_stays(case: Case) -> None:
    assert sides().value(case.make()).dtype == torch.float64


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_the_mathematics(case: Case, dtype: torch.dtype) -> None:
    value, gradients = sides(dtype).value_and_gradients(case.make())
    inside = sides(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = inside.value(case.make())
    found.backward()
    assert found.dtype == torch.float32 and found.item() == value.item()
    for key, gradient in gradients.items():
        grad = inside.student[key].grad
        assert grad is not None and grad.equal(gradient)


# Logits


@pytest.mark.parametrize("name", ["soft_cross_entropy", "forward_kl", "forward_kl_cwsm", "forward_kl_shift",
                                  "hard_labels"])
def test_adding_a_constant_to_logits_changes_nothing(name: str) -> None:
    case = case_of(name)
    value, gradients = sides().value_and_gradients(case.make())
    shifted = sides()
    shift = torch.linspace(-50, 50, MASK.numel(), dtype=torch.float64).reshape(*MASK.shape, 1)
    shifted.student[LOGITS] = (shifted.student[LOGITS].detach() + shift).requires_grad_()
    shifted.teacher[LOGITS] = shifted.teacher[LOGITS] - 2 * shift
    shifted_value, shifted_gradients = shifted.value_and_gradients(case.make())
    torch.testing.assert_close(shifted_value, value)
    torch.testing.assert_close(shifted_gradients[LOGITS], gradients[LOGITS], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.make(), KDLoss)],
                         ids=lambda case: case.name)
def test_logits_of_rows_are_sequences_of_length_one(case: Case) -> None:
    whole, mask = sides(), torch.tensor([[1], [0], [1]])
    student, teacher = ({key: value[:, 0] for key, value in side.items() if key in (LOGITS, LABELS)}
                        for side in (whole.student, whole.teacher))
    found = case.make()(student, teacher, {"logits": mask})
    expected = case.naive({key: value.unsqueeze(1) for key, value in student.items()},
                          {key: value.unsqueeze(1) for key, value in teacher.items()}, mask)
    torch.testing.assert_close(found, expected)


def test_units_count_what_the_sum_runs_over() -> None:
    units = {case.name: case.make().over for case in CASES}
    assert {name for name, over in units.items() if over.unit is Unit.PAIR} == {
        "nst", "attention_mse", "attention_mse_sum", "function_of_maps"}
    assert {name for name, over in units.items() if over.unit is Unit.ROW} == {"pkd", "fsp"}
    assert {name for name, over in units.items() if over.mask == "labels"} == {"hard_labels"}
    assert {name for name, over in units.items() if over.mask == "logits"} == {
        case.name for case in CASES if isinstance(case.make(), KDLoss)}


# What a loss keeps


@every_loss
def test_computing_a_loss_changes_nothing_that_is_saved(case: Case) -> None:
    loss = case.make()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    values = {loss(sides().student, sides().teacher, sides().masks()).item() for _ in range(2)}
    assert len(values) == 1 and all(loss.state_dict()[name].equal(value) for name, value in before.items())


def test_only_cost_attention_learns_from_steps() -> None:
    def saved_after_a_step(loss: Loss) -> bool:
        before = {name: value.clone() for name, value in loss.state_dict().items()}
        sides().value(loss)
        loss.after_step(alone)
        return any(not loss.state_dict()[name].equal(value) for name, value in before.items())

    assert {type(loss) for loss in (case.make() for case in CASES) if saved_after_a_step(loss)} == {CostAttentionEMD}


def test_a_part_s_denominator_is_the_loss_s_own() -> None:
    for case in CASES:
        objective = Objective([Term("loss", case.make())])
        assert objective.over(Part("loss", 0)) == case.make().over
