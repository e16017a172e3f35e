"""What every loss promises: a plain sum of its formula over kept units, and nothing of what the mask leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse.losses import (
    NST,
    PKD,
    Cosine,
    ForwardKL,
    FunctionLogitsLoss,
    FunctionLoss,
    HardLabels,
    HiddenMSE,
    LogitMSE,
    Loss,
    SoftCrossEntropy,
)
from stillhouse.types import LABELS, LOGITS, Key, Unit

H1, H2, H5, H6 = (Key("hidden", layer) for layer in (1, 2, 5, 6))
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
WIDTH = 4

Side = dict[Key, Tensor]
Naive = Callable[[Side, Side, Tensor], Tensor]


# The formulas again, one position at a time


def kept(mask: Tensor) -> list[tuple[int, int]]:
    return [(b, i) for b in range(mask.shape[0]) for i in range(mask.shape[1]) if mask[b, i]]


def softmax(logits: Tensor) -> list[Tensor]:
    exps = [value.exp() for value in logits]
    return [value / sum(exps) for value in exps]


def naive_soft_cross_entropy(temperature: float) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result = torch.zeros((), dtype=torch.float64)
        for b, i in kept(mask):
            p = softmax(teacher[LOGITS][b, i] / temperature)
            q = softmax(student[LOGITS][b, i] / temperature)
            for c in range(WIDTH):
                result = result - p[c] * q[c].log()
        return result

    return total


def naive_kl(temperature: float) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result = torch.zeros((), dtype=torch.float64)
        for b, i in kept(mask):
            p = softmax(teacher[LOGITS][b, i] / temperature)
            q = softmax(student[LOGITS][b, i] / temperature)
            for c in range(WIDTH):
                result = result + temperature**2 * p[c] * (p[c] / q[c]).log()
        return result

    return total


def naive_logit_mse(temperature: float) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result = torch.zeros((), dtype=torch.float64)
        for b, i in kept(mask):
            for c in range(WIDTH):
                difference = (student[LOGITS][b, i, c] - teacher[LOGITS][b, i, c]) / temperature
                result = result + difference**2 / WIDTH
        return result

    return total


def naive_hard_labels(student: Side, teacher: Side, mask: Tensor) -> Tensor:
    result = torch.zeros((), dtype=torch.float64)
    for b, i in kept(mask):
        result = result - softmax(student[LOGITS][b, i])[int(student[LABELS][b, i])].log()
    return result


def naive_hidden_mse(student: Side, teacher: Side, mask: Tensor) -> Tensor:
    result = torch.zeros((), dtype=torch.float64)
    for b, i in kept(mask):
        for h in range(WIDTH):
            result = result + (student[H1][b, i, h] - teacher[H5][b, i, h]) ** 2 / WIDTH
    return result


def dot(first: Tensor, second: Tensor) -> Tensor:
    return sum((x * y for x, y in zip(first, second, strict=True)), torch.zeros((), dtype=torch.float64))


def naive_cosine(student: Side, teacher: Side, mask: Tensor) -> Tensor:
    result = torch.zeros((), dtype=torch.float64)
    for b, i in kept(mask):
        s, t = student[H1][b, i], teacher[H5][b, i]
        result = result + 1 - dot(s, t) / (dot(s, s).sqrt() * dot(t, t).sqrt())
    return result


def naive_pkd(student: Side, teacher: Side, mask: Tensor) -> Tensor:
    result = torch.zeros((), dtype=torch.float64)
    for b in range(mask.shape[0]):
        s, t = student[H1][b, 0], teacher[H5][b, 0]
        for h in range(WIDTH):
            result = result + (s[h] / dot(s, s).sqrt() - t[h] / dot(t, t).sqrt()) ** 2 * mask[b, 0]
    return result


def naive_nst(student: Side, teacher: Side, mask: Tensor) -> Tensor:
    result = torch.zeros((), dtype=torch.float64)
    for b, i in kept(mask):
        for other, j in kept(mask):
            if other == b:
                similarity_s = dot(student[H1][b, i], student[H2][b, j]) / WIDTH
                similarity_t = dot(teacher[H5][b, i], teacher[H6][b, j]) / WIDTH
                result = result + (similarity_s - similarity_t) ** 2
    return result


def mean_of_kept(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """A user's own hidden-state loss, careful about padding."""
    keep = mask.ne(0)
    return (student[keep] - teacher[keep]).abs().mean()


def naive_mean_of_kept(student: Side, teacher: Side, mask: Tensor) -> Tensor:
    result = torch.zeros((), dtype=torch.float64)
    for b, i in kept(mask):
        for h in range(WIDTH):
            result = result + (student[H1][b, i, h] - teacher[H5][b, i, h]).abs() / WIDTH
    return result


def mean_of_logits(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return ((student - teacher) / temperature).square().sum(dim=-1).mean()


def naive_mean_of_logits(student: Side, teacher: Side, mask: Tensor) -> Tensor:
    return naive_logit_mse(3.0)(student, teacher, mask) * WIDTH


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], Loss]
    naive: Naive
    zero_at_equality: bool = True


CASES = [
    Case("soft_cross_entropy", lambda: SoftCrossEntropy(3.0), naive_soft_cross_entropy(3.0), zero_at_equality=False),
    Case("forward_kl", lambda: ForwardKL(3.0), naive_kl(3.0)),
    Case("logit_mse", lambda: LogitMSE(3.0), naive_logit_mse(3.0)),
    Case("hard_labels", HardLabels, naive_hard_labels, zero_at_equality=False),
    Case("hidden_mse", lambda: HiddenMSE([H1], [H5]), naive_hidden_mse),
    Case("cosine", lambda: Cosine([H1], [H5]), naive_cosine),
    Case("pkd", lambda: PKD([H1], [H5]), naive_pkd),
    Case("nst", lambda: NST([H1, H2], [H5, H6]), naive_nst),
    Case("function", lambda: FunctionLoss(mean_of_kept, [H1], [H5]), naive_mean_of_kept),
    Case("function_of_logits", lambda: FunctionLogitsLoss(mean_of_logits, 3.0), naive_mean_of_logits),
]
every_loss = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


# One set of tensors for all of them


@dataclass(frozen=True)
class Sides:
    student: Side
    teacher: Side
    mask: Tensor

    def masks(self) -> dict[str, Tensor]:
        return dict.fromkeys(("logits", "inputs", "labels"), self.mask)

    def map(self, change: Callable[[Tensor], Tensor]) -> Sides:
        """Each floating tensor changed, then a leaf of a graph on the student's side."""
        def changed(value: Tensor, trained: bool) -> Tensor:
            value = value.detach()
            return change(value).detach().clone().requires_grad_(trained) if value.is_floating_point() else value

        return Sides({key: changed(v, True) for key, v in self.student.items()},
                     {key: changed(v, False) for key, v in self.teacher.items()}, self.mask)

    def value(self, loss: Loss) -> Tensor:
        return loss(self.student, self.teacher, self.masks())

    def value_and_gradients(self, loss: Loss) -> tuple[Tensor, Side]:
        value = self.value(loss)
        value.backward()
        return value.detach(), {key: leaf.grad for key, leaf in self.student.items() if leaf.grad is not None}


def sides(dtype: torch.dtype = torch.float64, mask: Tensor = MASK) -> Sides:
    generator = torch.Generator().manual_seed(0)

    def tensor() -> Tensor:
        return torch.randn(*MASK.shape, WIDTH, generator=generator, dtype=torch.float64)

    student = {LOGITS: tensor(), H1: tensor(), H2: tensor()}
    teacher = {LOGITS: tensor(), H5: tensor(), H6: tensor()}
    student[LABELS] = torch.randint(0, WIDTH, MASK.shape, generator=generator)
    return Sides(student, teacher, mask).map(lambda value: value.to(dtype))


def at_padding(value: Tensor, mask: Tensor, content: float) -> Tensor:
    return value.masked_fill(mask.eq(0).unsqueeze(-1), content)


@every_loss
def test_value_and_gradient_equal_a_loop_over_positions(case: Case) -> None:
    value, gradients = sides().value_and_gradients(case.make())
    again = sides()
    expected = case.naive(again.student, again.teacher, again.mask)
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), atol=1e-10, rtol=1e-10)
    assert gradients
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, again.student[key].grad, atol=1e-10, rtol=1e-10)


@every_loss
def test_the_value_is_a_sum_over_rows(case: Case) -> None:
    whole = sides()
    rows = [Sides({k: v[[b]] for k, v in whole.student.items()}, {k: v[[b]] for k, v in whole.teacher.items()},
                  MASK[[b]]) for b in range(len(MASK))]
    torch.testing.assert_close(sum(row.value(case.make()) for row in rows), whole.value(case.make()))


@every_loss
def test_what_is_read_is_what_is_declared(case: Case) -> None:
    loss, everything = case.make(), sides()
    only = Sides({key: everything.student[key] for key in loss.needs.student},
                 {key: everything.teacher[key] for key in loss.needs.teacher}, MASK)
    narrow = loss(only.student, only.teacher, {loss.over.mask: MASK})
    assert narrow.item() == everything.value(loss).item()


@every_loss
def test_more_padding_changes_nothing(case: Case) -> None:
    value, gradients = sides().value_and_gradients(case.make())

    def wider(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, torch.full_like(tensor[:, :2], 3.0)], dim=1)

    wide = replace(sides().map(wider), mask=torch.cat([MASK, torch.zeros_like(MASK[:, :2])], dim=1))
    wide.student[LABELS] = torch.cat([wide.student[LABELS], wide.student[LABELS][:, :2]], dim=1)
    wide_value, wide_gradients = wide.value_and_gradients(case.make())
    torch.testing.assert_close(wide_value, value)
    for key, gradient in wide_gradients.items():
        torch.testing.assert_close(gradient[:, : MASK.shape[1]], gradients[key])
        assert gradient[:, MASK.shape[1]:].eq(0).all()


@every_loss
@pytest.mark.parametrize("content", [math.nan, math.inf, -math.inf])
def test_nothing_leaks_out_of_padding(case: Case, content: float) -> None:
    value, gradients = sides().value_and_gradients(case.make())
    dirty_value, dirty = sides().map(lambda t: at_padding(t, MASK, content)).value_and_gradients(case.make())
    assert dirty_value.item() == value.item()
    for key, gradient in dirty.items():
        assert gradient.equal(gradients[key]), key
        assert gradient[MASK.eq(0)].eq(0).all()


@every_loss
@pytest.mark.parametrize("content", [1.0, math.nan])
def test_an_empty_mask_gives_zero_with_a_graph_and_no_gradient(case: Case, content: float) -> None:
    empty = replace(sides(), mask=torch.zeros_like(MASK)).map(lambda t: at_padding(t, torch.zeros_like(MASK), content))
    value, gradients = empty.value_and_gradients(case.make())
    assert value.item() == 0 and gradients
    assert all(gradient.eq(0).all() for gradient in gradients.values())


@every_loss
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_of_any_type_do(case: Case, dtype: torch.dtype) -> None:
    assert replace(sides(), mask=MASK.to(dtype)).value(case.make()).item() == sides().value(case.make()).item()


@pytest.mark.parametrize("case", [case for case in CASES if case.zero_at_equality], ids=lambda case: case.name)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(case: Case) -> None:
    twins = sides()
    twins.teacher.update({LOGITS: twins.student[LOGITS].detach(), H5: twins.student[H1].detach(),
                          H6: twins.student[H2].detach()})
    value, gradients = twins.value_and_gradients(case.make())
    assert abs(value.item()) < 1e-14
    assert gradients and all(gradient.abs().max() < 1e-14 for gradient in gradients.values())


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_brought_to_float32(case: Case, dtype: torch.dtype) -> None:
    half = sides(dtype)
    value, gradients = half.value_and_gradients(case.make())
    expected, full = half.map(Tensor.float).value_and_gradients(case.make())
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


@pytest.mark.parametrize("name", ["soft_cross_entropy", "forward_kl", "hard_labels"])
def test_adding_a_constant_to_logits_changes_nothing(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    value, gradients = sides().value_and_gradients(case.make())
    shifted = sides()
    shift = torch.linspace(-50, 50, MASK.numel(), dtype=torch.float64).reshape(*MASK.shape, 1)
    shifted.student[LOGITS] = (shifted.student[LOGITS].detach() + shift).requires_grad_()
    shifted.teacher[LOGITS] = shifted.teacher[LOGITS] - 2 * shift
    shifted_value, shifted_gradients = shifted.value_and_gradients(case.make())
    torch.testing.assert_close(shifted_value, value)
    torch.testing.assert_close(shifted_gradients[LOGITS], gradients[LOGITS], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", ["soft_cross_entropy", "forward_kl", "logit_mse", "function_of_logits"])
def test_logits_of_rows_are_sequences_of_length_one(name: str) -> None:
    case, rows = next(case for case in CASES if case.name == name), sides()
    mask: dict[str, Any] = {"logits": torch.tensor([[1], [0], [1]])}
    found = case.make()({LOGITS: rows.student[LOGITS][:, 0]}, {LOGITS: rows.teacher[LOGITS][:, 0]}, mask)
    expected = case.naive({LOGITS: rows.student[LOGITS][:, :1]}, {LOGITS: rows.teacher[LOGITS][:, :1]}, mask["logits"])
    torch.testing.assert_close(found, expected)


def test_units_count_what_the_sum_runs_over() -> None:
    units = {case.name: case.make().over for case in CASES}
    assert {name for name, over in units.items() if over.unit is Unit.PAIR} == {"nst"}
    assert {name for name, over in units.items() if over.unit is Unit.ROW} == {"pkd"}
    assert {name for name, over in units.items() if over.mask == "labels"} == {"hard_labels"}
    counts = {Unit.ROW: 3, Unit.TOKEN: 3 + 5 + 3, Unit.PAIR: 9 + 25 + 9}
    assert all(over.unit.count(MASK).item() == counts[over.unit] for over in units.values())
