"""Losses between all layers of both models: the cheapest flow, and what weighs how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stillhouse import DistillationConfig, GeneralDistiller, TrainingConfig
from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import EMD, CostAttentionEMD, TransportLoss
from stillhouse.losses.transport import cheapest_flow, cost_attention
from stillhouse.presets import match_loss
from stillhouse.projections import linear
from stillhouse.types import Key, Over, Unit

from .naive import Side, cheapest_plan, mean_squares
from .sides import alone

S0, S1, S2, S3, T0, T1, T2, T3 = KEYS = [Key("hidden", layer) for layer in range(8)]
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
BOTH = [EMD, CostAttentionEMD]


def states(*keys: Key, width: int = 4, seed: int = 0) -> Side:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(2, 3, width, generator=generator, dtype=torch.float64) for key in keys}


def value_of(loss: TransportLoss, student: Side, teacher: Side, mask: Tensor = MASK) -> Tensor:
    return loss(student, teacher, {"inputs": mask})


# The flow


def weights(parts: Sequence[int]) -> Tensor:
    return torch.tensor(parts, dtype=torch.float64) / sum(parts)


def assert_moves_everything(flow: Tensor, supply: Tensor, demand: Tensor) -> None:
    assert (flow >= -1e-12).all()
    torch.testing.assert_close(flow.sum(dim=1), supply, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(flow.sum(dim=0), demand, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("supply", "demand"), [
    ([1], [1]), ([1, 1], [1, 1]), ([3, 3], [2, 2, 2]), ([2, 2, 2], [3, 3]), ([6], [1, 2, 3]), ([1, 2, 3], [4, 1, 1]),
    ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]), ([5, 1], [1, 5]),
])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_no_other_plan_is_cheaper(supply: list[int], demand: list[int], seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    costs = scale * torch.rand(len(supply), len(demand), generator=generator, dtype=torch.float64)
    flow = cheapest_flow(costs, weights(supply), weights(demand))
    assert_moves_everything(flow, weights(supply), weights(demand))
    best = torch.tensor(cheapest_plan(costs.tolist(), supply, demand), dtype=torch.float64)
    assert (flow * costs).sum().item() == pytest.approx((best * costs).sum().item(), rel=1e-9)


@pytest.mark.parametrize("costs", [
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]],
    [[1.0, 1.0, 5.0], [1.0, 1.0, 5.0]],
    [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]],
])
def test_ties_and_free_moves_still_move_everything_at_the_least_cost(costs: list[list[float]]) -> None:
    prices, supply, demand = torch.tensor(costs, dtype=torch.float64), weights([3, 3]), weights([2, 2, 2])
    flow = cheapest_flow(prices, supply, demand)
    assert_moves_everything(flow, supply, demand)
    best = torch.tensor(cheapest_plan(costs, [3, 3], [2, 2, 2]), dtype=torch.float64)
    assert (flow * prices).sum().item() == pytest.approx((best * prices).sum().item())


@pytest.mark.parametrize("content", [math.nan, math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_costs_that_are_no_numbers_do_not_stop_the_solver(content: float, everywhere: bool) -> None:
    costs = torch.tensor([[content, 1.0], [content if everywhere else 2.0, content if everywhere else 3.0]])
    half = torch.tensor([0.5, 0.5])
    assert_moves_everything(cheapest_flow(costs, half, half), half, half)


def test_weights_need_not_be_exact_in_their_own_number_type() -> None:
    thirds = torch.full((3,), 1 / 3, dtype=torch.float32)
    flow = cheapest_flow(1 - torch.eye(3), thirds, thirds)
    torch.testing.assert_close(flow, torch.eye(3) / 3)
    assert flow.dtype == torch.float32


# The loss


@pytest.mark.parametrize("loss", BOTH)
@pytest.mark.parametrize("order", [(T1, T2, T3), (T3, T1, T2), (T2, T3, T1)])
def test_the_same_layers_in_any_order_cost_nothing(loss: type[TransportLoss], order: tuple[Key, ...]) -> None:
    student = states(S0, S1, S2, S3)
    teacher = {T0: student[S0], **{key: student[own] for key, own in zip(order, (S1, S2, S3), strict=True)}}
    leaves = {key: value.clone().requires_grad_() for key, value in student.items()}
    value = value_of(loss([S0, S1, S2, S3], [T0, T1, T2, T3]), leaves, teacher)
    value.backward()
    assert abs(value.item()) < 1e-20
    assert all(leaf.grad is not None and leaf.grad.abs().max() < 1e-14 for leaf in leaves.values())


@pytest.mark.parametrize("loss", BOTH)
def test_embeddings_are_compared_with_each_other_alone(loss: type[TransportLoss]) -> None:
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, seed=1)
    value = value_of(loss([S0, S1, S2], [T0, T1, T2]), student, teacher)
    same = value_of(loss([S0, S1, S2], [T0, T1, T2]), student, {**teacher, T0: student[S0]})
    torch.testing.assert_close(value - same, mean_squares(student[S0], teacher[T0], MASK))


@pytest.mark.parametrize("loss", BOTH)
def test_the_flow_is_a_constant_for_the_gradient(loss: type[TransportLoss]) -> None:
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, seed=1)
    leaves = {key: value.clone().requires_grad_() for key, value in student.items()}
    value_of(loss([S0, S1, S2], [T0, T1, T2]), leaves, teacher).backward()
    costs = [[mean_squares(student[s], teacher[t], MASK).item() for t in (T1, T2)] for s in (S1, S2)]
    flow = cheapest_plan(costs, [1, 1], [1, 1])
    for s, key in enumerate((S1, S2)):
        expected = sum(flow[s][t] * 2 * (student[key] - teacher[other]) / 4 for t, other in enumerate((T1, T2)))
        torch.testing.assert_close(leaves[key].grad, expected * MASK.unsqueeze(-1))


@pytest.mark.parametrize("loss", BOTH)
def test_vectors_of_rows_are_summed_over_rows(loss: type[TransportLoss]) -> None:
    made = loss([S0, S1, S2], [T0, T1, T2])
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, seed=1)
    found = value_of(made, {k: v[:, 0] for k, v in student.items()}, {k: v[:, 0] for k, v in teacher.items()})
    assert made.over == Over(Unit.ROW, "inputs")
    first = torch.tensor([[1, 0, 0], [1, 0, 0]])
    torch.testing.assert_close(found, value_of(made, student, teacher, first))
    assert made.over == Over(Unit.TOKEN, "inputs")


@pytest.mark.parametrize("loss", BOTH)
def test_every_layer_of_the_student_has_its_own_projection(loss: type[TransportLoss]) -> None:
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, T3, width=6, seed=1)
    projections = nn.ModuleList(linear(4, 6).double() for _ in range(3))
    made = loss([S0, S1, S2], [T0, T1, T2, T3], projections)
    value = value_of(made, student, teacher)
    value.backward()
    by_hand = {key: state @ p.linear.weight.T + p.linear.bias
               for (key, state), p in zip(student.items(), projections, strict=True)}
    torch.testing.assert_close(value, value_of(loss([S0, S1, S2], [T0, T1, T2, T3]), by_hand, teacher))
    parameters = list(made.parameters())
    assert len(parameters) == 6
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    made.check(lambda key: 4, lambda key: 6)
    with pytest.raises(PlanError, match="expects a student width of 4, but the student is 5 wide"):
        made.check(lambda key: 5, lambda key: 6)


def test_a_named_match_makes_a_projection_for_each_layer() -> None:
    loss = match_loss("emd", [S0, S1, S2], [T0, T1], lambda: linear(4, 6))
    assert isinstance(loss, EMD) and isinstance(loss.projection, nn.ModuleList)
    assert len({id(projection) for projection in loss.projection}) == 3


@pytest.mark.parametrize("loss", BOTH)
def test_layers_that_cannot_be_compared_are_refused(loss: type[TransportLoss]) -> None:
    with pytest.raises(PlanError, match="needs the embeddings and at least one layer of each side, but has 1 and 3"):
        loss([S0], [T0, T1, T2])
    with pytest.raises(PlanError, match="2 projections for 3 layers of the student"):
        loss([S0, S1, S2], [T0, T1], nn.ModuleList([nn.Identity(), nn.Identity()]))
    with pytest.raises(PlanError, match=r"\(4 wide\) and teacher hidden\[6\] \(6 wide\) needs a projection"):
        loss([S0, S1], [T0, T1, T2]).check(lambda key: 4, lambda key: 6 if key == T2 else 4)
    with pytest.raises(OutputError, match=r"hidden\[0\] with hidden\[4\]: the student is 4 wide, the teacher 6"):
        value_of(loss([S0, S1], [T0, T1]), states(S0, S1), states(T0, T1, width=6))


# Weights that follow from costs


def by_formula(costs: list[list[float]], flow: list[list[float]], axis: int, old: list[float]) -> list[float]:
    """A tenth of the way to the softmax of one side's inverse unit costs over their mean, mixed with equal parts."""
    moved = [[c * f for c, f in zip(*rows, strict=True)] for rows in zip(costs, flow, strict=True)]
    paid = [sum(row) for row in (moved if axis == 0 else zip(*moved, strict=True))]
    unit_costs = [cost / weight for cost, weight in zip(paid, old, strict=True)]
    inverse = [1 / max(cost, 1e-6 * max(unit_costs)) for cost in unit_costs]
    exps = [math.exp(value / (sum(inverse) / len(inverse))) for value in inverse]
    wanted = [0.999 * value / sum(exps) + 0.001 / len(exps) for value in exps]
    return [0.9 * weight + 0.1 * aim for weight, aim in zip(old, wanted, strict=True)]


def mean_costs(student: Side, teacher: Side) -> list[list[float]]:
    kept = int(MASK.sum())
    return [[mean_squares(s, t, MASK).item() / kept for t in list(teacher.values())[1:]]
            for s in list(student.values())[1:]]


def two_by_two(costs: list[list[float]], supply: list[float], demand: list[float]) -> list[list[float]]:
    """The cheaper end of the one-parameter family of plans."""
    def plan(first: float) -> list[list[float]]:
        return [[first, supply[0] - first], [demand[0] - first, supply[1] - demand[0] + first]]

    ends = max(0.0, demand[0] - supply[1]), min(supply[0], demand[0])
    return min((plan(end) for end in ends), key=lambda p: sum(p[s][t] * costs[s][t] for s in (0, 1) for t in (0, 1)))


def test_weights_start_alike_and_follow_the_formula_after_each_step() -> None:
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, seed=1)
    student[S1], student[S2] = 0.4 * student[S1], 0.6 * student[S2]  # unit costs of a size that leaves no weight at 0
    loss, costs = CostAttentionEMD([S0, S1, S2], [T0, T1, T2]), mean_costs(student, teacher)
    torch.testing.assert_close(value_of(loss, student, teacher),
                               value_of(EMD([S0, S1, S2], [T0, T1, T2]), student, teacher))
    own, other = [0.5, 0.5], [0.5, 0.5]
    for _ in range(3):
        flow = two_by_two(costs, own, other)
        expected = 5 * sum(flow[s][t] * costs[s][t] for s in (0, 1) for t in (0, 1))
        expected += mean_squares(student[S0], teacher[T0], MASK).item()
        assert value_of(loss, student, teacher).item() == pytest.approx(expected, rel=1e-9)
        loss.after_step(alone)
        own, other = by_formula(costs, flow, 0, own), by_formula(costs, flow, 1, other)
        assert loss.student_weights.tolist() == pytest.approx(own, rel=1e-9)
        assert loss.teacher_weights.tolist() == pytest.approx(other, rel=1e-9)
    assert own != pytest.approx([0.5, 0.5], abs=1e-3)


def test_other_numbers_of_layers_follow_the_formula_too() -> None:
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, T3, seed=1)
    loss, costs = CostAttentionEMD([S0, S1, S2], [T0, T1, T2, T3]), mean_costs(student, teacher)
    value_of(loss, student, teacher)
    loss.after_step(alone)
    flow = cheapest_plan(costs, [3, 3], [2, 2, 2])
    assert loss.student_weights.tolist() == pytest.approx(by_formula(costs, flow, 0, [1 / 2] * 2), rel=1e-9)
    assert loss.teacher_weights.tolist() == pytest.approx(by_formula(costs, flow, 1, [1 / 3] * 3), rel=1e-9)


def test_layers_that_are_cheap_to_move_count_for_more() -> None:
    student = states(S0, S1, S2)
    teacher = {T0: student[S0], T1: student[S1] + 0.1, T2: student[S2] + 0.2}
    loss = CostAttentionEMD([S0, S1, S2], [T0, T1, T2])
    for _ in range(100):
        value_of(loss, student, teacher)
        loss.after_step(alone)
    assert loss.student_weights[0] > 0.7 and loss.teacher_weights[0] > 0.7


@pytest.mark.parametrize("cheap", [1e-12, 0.01, 0.3])
def test_weights_settle_and_no_layer_is_left_without_any(cheap: float) -> None:
    costs = torch.rand(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.2 + 0.9
    costs[0, 0], costs[1, 1] = cheap, 0.5  # a student that starts with a copied layer
    own, other = (torch.full((n,), 1 / n, dtype=torch.float64) for n in (3, 6))
    steps = []
    for _ in range(200):
        moved = costs * cheapest_flow(costs, own, other)
        steps.append((own, other))
        own, other = cost_attention(moved.sum(1), own), cost_attention(moved.sum(0), other)
    for before, after in zip(steps[-1], (own, other), strict=True):
        torch.testing.assert_close(before, after, atol=1e-6, rtol=0)
        assert after.argmax() == 0 and after.min() > 1e-4


def test_a_step_learns_from_all_its_micro_batches_and_ranks() -> None:
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, seed=1)
    masks = torch.tensor([[1, 0, 0], [0, 0, 0]]), MASK
    apart, ranks = (CostAttentionEMD([S0, S1, S2], [T0, T1, T2]) for _ in range(2))
    for mask in masks:
        value_of(apart, student, teacher, mask)
    apart.after_step(alone)
    seen: list[Tensor] = []
    value_of(ranks, student, teacher, masks[0])
    ranks.after_step(lambda sums: (seen.append(sums), sums * 0)[1])  # the other rank's turn: keep what this one has
    assert ranks.student_weights.tolist() == [0.5, 0.5]
    value_of(ranks, student, teacher, masks[1])
    ranks.after_step(lambda sums: sums + seen[0])
    torch.testing.assert_close(ranks.student_weights, apart.student_weights)
    torch.testing.assert_close(ranks.teacher_weights, apart.teacher_weights)
    assert not torch.allclose(apart.student_weights, torch.full((2,), 0.5, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("copied", [(), (T1,), (T1, T2), (T1, T2, T3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_stay_finite_when_moving_costs_nothing(copied: tuple[Key, ...], dtype: torch.dtype) -> None:
    student, teacher = states(S0, S1, S2, S3), states(T0, T1, T2, T3, seed=1)
    teacher.update({key: student[KEYS[KEYS.index(key) - 4]] for key in copied})
    student, teacher = ({key: value.to(dtype) for key, value in side.items()} for side in (student, teacher))
    loss = CostAttentionEMD([S0, S1, S2, S3], [T0, T1, T2, T3])
    for _ in range(4):
        value = value_of(loss, student, teacher)
        assert value.isfinite()
        loss.after_step(alone)
        for side in (loss.student_weights, loss.teacher_weights):
            assert side.isfinite().all() and (side >= 0).all()
            assert side.sum().item() == pytest.approx(1)


def test_a_step_without_a_loss_and_a_loss_over_nothing_move_no_weight() -> None:
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, seed=1)
    loss = CostAttentionEMD([S0, S1, S2], [T0, T1, T2])
    loss.after_step(alone)
    value_of(loss, student, teacher, torch.zeros_like(MASK))
    loss.after_step(alone)
    assert loss.student_weights.tolist() == loss.teacher_weights.tolist() == [0.5, 0.5]
    value_of(loss, student, teacher)
    loss.after_step(alone)
    moved = loss.student_weights.clone()
    loss.after_step(alone)
    assert loss.student_weights.equal(moved)


def test_weights_are_saved_and_decide_the_value() -> None:
    student, teacher = states(S0, S1, S2), states(T0, T1, T2, seed=1)
    first, second = (CostAttentionEMD([S0, S1, S2], [T0, T1, T2]) for _ in range(2))
    value_of(first, student, teacher)
    first.after_step(alone)
    assert set(first.state_dict()) == {"student_weights", "teacher_weights"}
    assert not list(first.parameters())
    before = value_of(second, student, teacher).item()
    second.load_state_dict(first.state_dict())
    assert value_of(second, student, teacher).item() == value_of(first, student, teacher).item() != before


# Through the distiller


class Toy(nn.Module):
    """x of (B, L, 4) -> logits (B, 3) and hidden states (B, L, width), with weights from numpy's own generator."""

    def __init__(self, width: int, layers: int, seed: int) -> None:
        super().__init__()
        random = np.random.RandomState(seed)

        def matrix(out: int, into: int) -> nn.Parameter:
            return nn.Parameter(torch.from_numpy(random.randn(out, into) / np.sqrt(into)))

        self.layers = nn.ParameterList([matrix(width, width if layer else 4) for layer in range(layers)])
        self.out = matrix(3, width)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        hidden = []
        for layer in self.layers:
            x = torch.tanh(x @ layer.T)
            hidden.append(x)
        return (x @ self.out.T).mean(dim=1), hidden


def distiller(tmp_path: Path, loss: str, width: int = 8, **settings: Any) -> GeneralDistiller:
    match = {"layer_T": [0, 1, 2, 3, 4], "layer_S": [0, 1, 2], "feature": "hidden", "loss": loss, "weight": 1.5}

    def adaptor(batch: Any, outputs: tuple[Tensor, list[Tensor]]) -> dict[str, Any]:
        return {"logits": outputs[0], "hidden": outputs[1]}

    return GeneralDistiller(
        TrainingConfig(device="cpu", output_dir=str(tmp_path)),
        DistillationConfig(temperature=2, intermediate_matches=[match | settings]),
        Toy(8, 5, seed=1), Toy(width, 3, seed=2), adaptor, adaptor,
    )


def inputs() -> tuple[Tensor]:
    return (torch.from_numpy(np.random.RandomState(7).randn(4, 6, 4)),)


@pytest.mark.parametrize("loss", ["emd", "emd_cost_attention"])
def test_the_published_example_s_total_is_reproduced(tmp_path: Path, loss: str) -> None:
    total, _ = distiller(tmp_path, loss).train_on_batch(inputs(), {})
    assert total.item() == pytest.approx(2.8088964, abs=1e-6)


def cost_attention_of(made: GeneralDistiller) -> CostAttentionEMD:
    return next(loss for loss in made.plan.objective.losses.values() if isinstance(loss, CostAttentionEMD))


def test_looking_at_a_batch_moves_no_weight_and_a_step_does(tmp_path: Path) -> None:
    made = distiller(tmp_path, "emd_cost_attention")
    loss = cost_attention_of(made)
    totals = [made.train_on_batch(inputs(), {})[0].item() for _ in range(3)]
    assert totals[0] == totals[1] == totals[2]
    assert loss.teacher_weights.tolist() == [0.25] * 4
    with made:
        made.train(torch.optim.SGD(made.model_S.parameters(), lr=0.0), [inputs()], num_epochs=1)
    assert loss.teacher_weights.tolist() != [0.25] * 4
    assert loss.teacher_weights.sum().item() == pytest.approx(1)


def test_projections_of_a_student_of_another_width_are_trained(tmp_path: Path) -> None:
    made = distiller(tmp_path, "emd", width=6, proj=["linear", 6, 8, {"lr": 1e-2}])
    before = [parameter.detach().clone() for parameter in made.plan.objective.parameters()]
    assert len(before) == 6
    with made:
        made.train(torch.optim.SGD(made.model_S.parameters(), lr=0.1), [inputs()], num_epochs=1)
    after = list(made.plan.objective.parameters())
    assert all(not old.equal(new) for old, new in zip(before, after, strict=True))


def test_embeddings_may_be_of_another_width_than_the_layers() -> None:
    def width(key: Key) -> int:
        return 4 if key.index == 0 else 8

    EMD([Key("hidden", i) for i in range(3)], [Key("hidden", i) for i in range(4)]).check(width, width)
