"""Losses between layers: projections, shapes, and the members of the family beyond the common contract."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import EMD, FSP, NST, PKD, Cosine, FeatureLoss, FunctionLoss, HiddenMSE, Loss
from stillhouse.objective import Objective, Part, Term
from stillhouse.presets import MATCH_LOSS_MAP
from stillhouse.projections import linear, tanh
from stillhouse.types import Key, Over, Progress, Unit, module_key

A, B = Key("hidden", 1), Key("hidden", 2)
ONE_LAYER = [HiddenMSE, Cosine, PKD]
EVERY = [*ONE_LAYER, FSP, NST]
SAME_WIDTH = [*ONE_LAYER, FSP]
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def made(loss: type[FeatureLoss], projection: nn.Module | None = None) -> FeatureLoss:
    assert loss.num_layers is not None
    return loss([A] * loss.num_layers, [B] * loss.num_layers, projection)


def states(width_s: int = 4, width_t: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, width_s, generator=generator, dtype=torch.float64).to(dtype)
    teacher = torch.randn(2, 3, width_t, generator=generator, dtype=torch.float64).to(dtype)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("loss", SAME_WIDTH)
def test_the_student_is_projected_and_the_teacher_is_not(loss: type[FeatureLoss]) -> None:
    student, teacher = states(4, 6)
    projection = tanh(4, 6).double()
    found = made(loss, projection)({A: student}, {B: teacher}, {"inputs": MASK})
    by_hand = (student @ projection.linear.weight.T + projection.linear.bias).tanh()
    torch.testing.assert_close(found, made(loss)({A: by_hand}, {B: teacher}, {"inputs": MASK}))


@pytest.mark.parametrize("loss", EVERY)
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


@pytest.mark.parametrize("loss", EVERY)
def test_an_empty_mask_gives_the_projection_a_gradient_of_zero(loss: type[FeatureLoss]) -> None:
    student, teacher = states()
    member = made(loss, linear(4, 4).double())
    value = member({A: student}, {B: teacher}, {"inputs": torch.zeros_like(MASK)})
    value.backward()
    assert value.item() == 0
    assert all(p.grad is not None and p.grad.eq(0).all() for p in (*member.parameters(), student))


@pytest.mark.parametrize("loss", EVERY)
def test_the_projection_runs_under_autocast_and_the_loss_does_not(loss: type[FeatureLoss]) -> None:
    student, teacher = states(dtype=torch.float32)
    member = made(loss, linear(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        found = member({A: student}, {B: teacher}, {"inputs": MASK})
        projected = member.projection(student)
    assert projected.dtype == torch.bfloat16 and found.dtype == torch.float32
    torch.testing.assert_close(found, made(loss)({A: projected.float()}, {B: teacher}, {"inputs": MASK}))


@pytest.mark.parametrize("loss", SAME_WIDTH)
def test_other_widths_without_a_projection_are_refused_with_the_remedy(loss: type[FeatureLoss]) -> None:
    student, teacher = states(4, 6)
    with pytest.raises(OutputError, match=r"4 wide, the teacher 6; add a projection, proj: \[linear, 4, 6\]"):
        made(loss)({A: student}, {B: teacher}, {"inputs": MASK})
    with pytest.raises(PlanError, match=r"needs a projection: in a configuration, proj: \[linear, 4, 6\]"):
        made(loss).check(lambda key: 4, lambda key: 6)
    made(loss).check(lambda key: None, lambda key: 6)
    made(loss, linear(4, 6)).check(lambda key: 4, lambda key: 6)
    made(loss, nn.Linear(4, 5)).check(lambda key: 4, lambda key: 6)  # a module of the user's: only its output can tell


@pytest.mark.parametrize("loss", EVERY)
def test_a_projection_for_another_student_is_refused(loss: type[FeatureLoss]) -> None:
    with pytest.raises(PlanError, match="expects a student width of 5, but the student is 4 wide"):
        made(loss, linear(5, 6)).check(lambda key: 4, lambda key: 6)


@pytest.mark.parametrize("loss", SAME_WIDTH)
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


@pytest.mark.parametrize("loss", EVERY)
def test_layers_over_other_positions_are_refused(loss: type[FeatureLoss]) -> None:
    student, teacher = states()
    with pytest.raises(OutputError, match=r"\(2, 3, 4\) and \(2, 2, 4\) do not cover the same positions"):
        made(loss)({A: student}, {B: teacher[:, :2]}, {"inputs": MASK})
    with pytest.raises(OutputError, match=r"hidden\[1\] has shape \(2, 3, 4\) but its mask \(2, 2\)"):
        made(loss)({A: student}, {B: teacher}, {"inputs": MASK[:, :2]})


@pytest.mark.parametrize("loss", EVERY)
def test_the_number_of_layers_is_checked(loss: type[FeatureLoss]) -> None:
    number = loss.num_layers
    assert number is not None
    with pytest.raises(PlanError, match=rf"takes {number} layer\(s\) of the student, not {number + 1}"):
        loss([A] * (number + 1), [B] * number)
    with pytest.raises(PlanError, match=rf"takes {number} layer\(s\) of the teacher, not 0"):
        loss([A] * number, [])


@pytest.mark.parametrize("loss", EVERY)
def test_one_vector_a_row_is_a_sequence_of_length_one(loss: type[FeatureLoss]) -> None:
    student, teacher = states()
    mask: dict[str, Any] = {"inputs": torch.tensor([[1], [1]])}
    found = made(loss)({A: student[:, 0]}, {B: teacher[:, 0]}, mask)
    torch.testing.assert_close(found, made(loss)({A: student[:, :1]}, {B: teacher[:, :1]}, mask))


@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
@pytest.mark.parametrize(("loss", "lengths"), [(Cosine, {"student": 1, "teacher": 1, "both": 1}),
                                               (PKD, {"student": 1, "teacher": 1, "both": 0})])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_zero_vector_has_no_direction_and_no_gradient(zero: str, loss: type[FeatureLoss], lengths: dict[str, int],
                                                        dtype: torch.dtype) -> None:
    student, teacher = torch.ones(1, 1, 4, dtype=dtype), torch.ones(1, 1, 4, dtype=dtype)
    student = (student * (0 if zero in ("student", "both") else 1)).requires_grad_()
    teacher = teacher * (0 if zero in ("teacher", "both") else 1)
    value = made(loss)({A: student}, {B: teacher}, {"inputs": torch.ones(1, 1)})
    value.backward()
    assert value.item() == lengths[zero]
    assert student.grad is not None and student.grad.eq(0).all()


def test_scale_does_not_change_directions() -> None:
    student, teacher = states()
    for loss in (Cosine, PKD):
        torch.testing.assert_close(made(loss)({A: 7 * student}, {B: 0.1 * teacher}, {"inputs": MASK}),
                                   made(loss)({A: student}, {B: teacher}, {"inputs": MASK}))


def test_the_first_position_is_read_whatever_its_mask_of_rows_that_keep_any() -> None:
    student, teacher = states()
    found = made(PKD)({A: student}, {B: teacher}, {"inputs": torch.tensor([[0, 1, 1], [1, 1, 1]])})
    torch.testing.assert_close(found, made(PKD)({A: student}, {B: teacher}, {"inputs": torch.ones(2, 3)}))
    torch.testing.assert_close(MATCH_LOSS_MAP["pkd"](student, teacher), found / 2)
    left_out = made(PKD)({A: student}, {B: teacher}, {"inputs": torch.tensor([[0, 0, 0], [1, 1, 1]])})
    torch.testing.assert_close(left_out, made(PKD)({A: student[1:]}, {B: teacher[1:]}, {"inputs": torch.ones(1, 3)}))


# One vector a row, beside a mask over positions


POOLED_S, POOLED_T = module_key("encoder.pooler"), module_key("bert.pooler")
ROWS_KEPT = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]])
ROWS, TOKENS = Over(Unit.ROW, "inputs"), Over(Unit.TOKEN, "inputs")


def l1(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """A user's own mean over kept rows, or kept positions."""
    if student.dim() == 2:
        student, teacher = student.unsqueeze(1), teacher.unsqueeze(1)
    keep = mask.ne(0)
    return (student[keep] - teacher[keep]).abs().sum(dim=-1).mean()


def between_modules(name: str) -> Loss:
    """A loss between vectors of rows."""
    if name == "l1":
        return FunctionLoss(l1, [POOLED_S], [POOLED_T])
    kind = {"hidden_mse": HiddenMSE, "cos": Cosine, "pkd": PKD, "fsp": FSP, "nst": NST, "emd": EMD}[name]
    number = kind.num_layers or 2
    return kind([POOLED_S] * number, [POOLED_T] * number)


def pooled(width: int = 4) -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, 4, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return student.clone().requires_grad_(), teacher.clone()


def of_one_row(name: str, s: Tensor, t: Tensor) -> Tensor:
    """The formulas for rows of one vector."""
    width = len(s)
    return {
        "hidden_mse": sum((s[h] - t[h]) ** 2 for h in range(width)) / width,
        "cos": 1 - sum(s[h] * t[h] for h in range(width)) / (sum(v * v for v in s) * sum(v * v for v in t)) ** 0.5,
        "pkd": sum((s[h] / sum(v * v for v in s) ** 0.5 - t[h] / sum(v * v for v in t) ** 0.5) ** 2
                   for h in range(width)),
        "fsp": sum((s[g] * s[h] - t[g] * t[h]) ** 2 for g in range(width) for h in range(width)) / width**2,
        "nst": ((sum(v * v for v in s) - sum(v * v for v in t)) / width) ** 2,
        "emd": 2 * sum((s[h] - t[h]) ** 2 for h in range(width)) / width,  # the layer, and again as the embeddings
        "l1": sum((s[h] - t[h]).abs() for h in range(width)),
    }[name]


every_name = pytest.mark.parametrize("name", ["hidden_mse", "cos", "pkd", "fsp", "nst", "emd", "l1"])


@every_name
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_vectors_of_rows_are_a_sum_over_rows_with_anything_kept(name: str, dtype: torch.dtype) -> None:
    student, teacher = pooled()
    loss = between_modules(name)
    value = loss({POOLED_S: student}, {POOLED_T: teacher}, {"inputs": ROWS_KEPT.to(dtype)})
    assert loss.over == ROWS and loss.over in loss.overs
    torch.testing.assert_close(value, sum(of_one_row(name, student[b], teacher[b]) for b in (0, 2, 3)))
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient[1].eq(0).all() and gradient[[0, 2, 3]].ne(0).all()


@every_name
def test_an_objective_divides_vectors_of_rows_by_rows(name: str) -> None:
    student, teacher = pooled()
    objective, progress = Objective([Term("pooled", between_modules(name))]), Progress(0, 1)
    masks = {"inputs": ROWS_KEPT}
    counts = objective.counts(masks)  # before any forward has shown what the modules give
    sums = objective({POOLED_S: student}, {POOLED_T: teacher}, masks, progress)
    total, means = objective.combine(sums, counts, progress)
    assert total is not None and objective.over(Part("pooled", 0)) == ROWS and counts[ROWS].item() == 3
    torch.testing.assert_close(total, sum(of_one_row(name, student[b], teacher[b]) for b in (0, 2, 3)) / 3)
    assert means["pooled"].item() == total.item()


@pytest.mark.parametrize("name", ["hidden_mse", "cos", "fsp", "l1"])
def test_the_unit_is_that_of_the_tensors_of_the_call(name: str) -> None:
    loss = between_modules(name)
    wide_s, wide_t = (side.unsqueeze(1).expand(4, 3, 4).contiguous() for side in pooled())
    before = loss({POOLED_S: wide_s}, {POOLED_T: wide_t}, {"inputs": ROWS_KEPT})
    own = loss.over
    student, teacher = pooled()
    loss({POOLED_S: student}, {POOLED_T: teacher}, {"inputs": ROWS_KEPT})
    assert loss.over == ROWS and own == (ROWS if name == "fsp" else TOKENS)
    again = loss({POOLED_S: wide_s}, {POOLED_T: wide_t}, {"inputs": ROWS_KEPT})
    assert loss.over == own and again.item() == before.item()


@every_name
@pytest.mark.parametrize("content", [1.0, math.nan])
def test_vectors_of_no_row_are_zero_with_a_graph(name: str, content: float) -> None:
    student, teacher = (torch.full_like(side, content) for side in pooled())
    student.requires_grad_()
    value = between_modules(name)({POOLED_S: student}, {POOLED_T: teacher}, {"inputs": torch.zeros_like(ROWS_KEPT)})
    value.backward()
    assert value.item() == 0 and student.grad is not None and student.grad.eq(0).all()


def test_vectors_of_rows_are_projected() -> None:
    student, _ = pooled()
    _, teacher = pooled(6)
    projection = tanh(4, 6).double()
    found = HiddenMSE([POOLED_S], [POOLED_T], projection)({POOLED_S: student}, {POOLED_T: teacher},
                                                         {"inputs": ROWS_KEPT})
    by_hand = (student @ projection.linear.weight.T + projection.linear.bias).tanh()
    torch.testing.assert_close(found, sum(of_one_row("hidden_mse", by_hand[b], teacher[b]) for b in (0, 2, 3)))
    found.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projection.parameters())


def test_a_vector_a_row_has_no_counterpart_in_states_of_positions() -> None:
    student, _ = pooled()
    with pytest.raises(OutputError, match=r"\(4, 1, 4\) and \(4, 3, 4\) do not cover the same positions"):
        between_modules("cos")({POOLED_S: student}, {POOLED_T: torch.zeros(4, 3, 4)}, {"inputs": ROWS_KEPT})
    maps = torch.zeros(4, 3, 2, 3)
    with pytest.raises(OutputError, match=r"\(4, 3, 2, 3\) and \(4, 3, 2, 3\) are no hidden states, which are"):
        between_modules("cos")({POOLED_S: maps}, {POOLED_T: maps}, {"inputs": ROWS_KEPT})
