"""Losses between all layers of both models, matched by optimal transport (BERT-EMD).

Which layer learns from which follows from the layers themselves: moving weight from the student's layers to the
teacher's costs the squared distance of their hidden states, and the cheapest plan says how much each pair counts.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.errors import PlanError
from stillhouse.losses.base import SumOverRanks
from stillhouse.losses.features import FeatureLoss
from stillhouse.losses.hidden import HiddenMSE
from stillhouse.types import Key

_LI = "Li et al. 2020, BERT-EMD: Many-to-Many Layer Mapping for BERT Compression with Earth Mover's Distance, " \
      "arXiv:2010.06133"


class TransportLoss(FeatureLoss, abc.ABC):
    """Transport cost between the layers of both models, plus the distance of their embeddings. Abstract.

    ``sum_st flow_st * mse(S_s, T_t) + mse(S_0, T_0)``, summed over kept positions, where layer 0 of each side is the
    embedding output. The flow is that of the micro-batch's mean costs, without a gradient; so a row's share depends on
    the rows beside it. Give ``layer_weights``.

    Args:
        student: keys of the student's layers, the embeddings first.
        teacher: keys of the teacher's layers, the embeddings first; another number of them is as good.
        projection: one for all layers of the student, or an ``nn.ModuleList`` with one for each.
    """

    num_layers = None
    scope: Literal["rows", "batch"] = "batch"
    paper = _LI

    def __init__(self, student: Sequence[Key], teacher: Sequence[Key], projection: nn.Module | None = None) -> None:
        super().__init__(student, teacher, projection)
        if min(len(self.student_keys), len(self.teacher_keys)) < 2:
            raise PlanError(f"{type(self).__name__} needs the embeddings and at least one layer of each side, but has "
                            f"{len(self.student_keys)} and {len(self.teacher_keys)} in all")
        if isinstance(projection, nn.ModuleList) and len(projection) != len(self.student_keys):
            raise PlanError(f"{len(projection)} projections for {len(self.student_keys)} layers of the student")

    @abc.abstractmethod
    def layer_weights(self) -> tuple[Tensor, Tensor]:
        """The weight of each layer of the student and of the teacher, embeddings left out; each sums to 1."""

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        distance = HiddenMSE.distance
        costs_ST = torch.stack([torch.stack([distance(s, t) for t in teacher_BLH[1:]]) for s in student_BLH[1:]])
        count = int(mask_BL.ne(0).sum())
        means_ST = costs_ST.detach() / max(count, 1)
        flow_ST = cheapest_flow(means_ST, *self.layer_weights())
        self.learn(means_ST, flow_ST, count)
        return (flow_ST * costs_ST).sum() + distance(student_BLH[0], teacher_BLH[0])

    def learn(self, costs_ST: Tensor, flow_ST: Tensor, count: float) -> None:
        """Told of the mean cost of each pair of layers, of what flows between them, and over how many positions."""


class EMD(TransportLoss):
    """Transport between layers that all weigh the same."""

    def layer_weights(self) -> tuple[Tensor, Tensor]:
        student, teacher = len(self.student_keys) - 1, len(self.teacher_keys) - 1
        return torch.full((student,), 1 / student), torch.full((teacher,), 1 / teacher)


class CostAttentionEMD(TransportLoss):
    """Transport between layers whose weights follow from what moving them costs (cost attention).

    All layers start alike. After each optimizer step a layer's unit cost is what its weight cost to move, divided by
    that weight, over all micro-batches and ranks of the step; the weights of each side go some of the way to the
    softmax of the inverse unit costs, so that layers that are cheap to move count for more. The weights are buffers:
    saved, resumed and the same on every rank. See `cost_attention` for where this differs from the paper.
    """

    student_weights: Tensor
    teacher_weights: Tensor

    def __init__(self, student: Sequence[Key], teacher: Sequence[Key], projection: nn.Module | None = None) -> None:
        super().__init__(student, teacher, projection)
        layers = [len(keys) - 1 for keys in (self.student_keys, self.teacher_keys)]
        for side, number in zip(("student", "teacher"), layers, strict=True):
            self.register_buffer(f"{side}_weights", torch.full((number,), 1 / number, dtype=torch.float64))
        self._moved_ST, self._count = torch.zeros(layers, dtype=torch.float64), 0.0

    def layer_weights(self) -> tuple[Tensor, Tensor]:
        return self.student_weights, self.teacher_weights

    def learn(self, costs_ST: Tensor, flow_ST: Tensor, count: float) -> None:
        self._moved_ST += count * (costs_ST * flow_ST).double().cpu()
        self._count += count

    def after_step(self, sum_over_ranks: SumOverRanks) -> None:
        seen = torch.cat([self._moved_ST.flatten(), torch.tensor([self._count], dtype=torch.float64)])
        seen = sum_over_ranks(seen)
        moved_ST, count = seen[:-1].view_as(self._moved_ST), float(seen[-1])
        self._moved_ST, self._count = torch.zeros_like(self._moved_ST), 0.0
        if count == 0:
            return
        for axis, weights in ((1, self.student_weights), (0, self.teacher_weights)):
            weights.copy_(cost_attention(moved_ST.sum(dim=axis) / count, weights.cpu()))


PACE = 0.1
"""How much of the way weights go in a step. All at once, they swing for ever between layers that take turns at being
cheap because little has to be moved."""

LEAST = 1e-3
"""The share of the weight that all layers have in equal parts, whatever they cost; with none, nothing would be moved
and its cost could not be known."""


def cost_attention(moved: Tensor, weights: Tensor) -> Tensor:
    """New weights of one side's layers, from what was paid to move the old ones. All shapes are (layers,).

    With unit costs C = moved / weights, the paper takes ``softmax(sum(C) / C)``. Here the inverse costs are divided by
    their mean instead of multiplied by a sum, so that they are at most the number of layers: a student that starts as a
    copy of the teacher's layers has unit costs near 0, and the paper's formula puts all weight on one of them.
    """
    if not moved.sum() > 0:
        return weights
    unit_costs = moved / weights
    inverse = 1 / unit_costs.clamp_min(1e-6 * float(unit_costs.max()))
    wanted = (1 - LEAST) * (inverse / inverse.mean()).softmax(dim=0) + LEAST / len(weights)
    return weights + PACE * (wanted - weights)


def cheapest_flow(costs_ST: Tensor, supply_S: Tensor, demand_T: Tensor) -> Tensor:
    """What to move from each source to each target, so that the whole costs least: (S, T), on the costs' device.

    Rows of the result sum to the supply, columns to the demand; both must sum to 1. It is one of the optimal plans
    where there are several.
    """
    from scipy.optimize import linprog  # slow to import, and few objectives need it

    num_sources, num_targets = costs_ST.shape
    conditions = np.concatenate([np.kron(np.eye(num_sources), np.ones(num_targets)),
                                 np.kron(np.ones(num_sources), np.eye(num_targets))])
    supply, demand = (side.detach().double().cpu().numpy() for side in (supply_S, demand_T))
    amounts = np.concatenate([supply / supply.sum(), demand / demand.sum()])
    prices = np.nan_to_num(costs_ST.double().cpu().numpy().reshape(-1))
    prices = prices / (np.abs(prices).max() or 1.0)  # the solver's tolerances are absolute
    # the last condition follows from the others, and rounding must not make them contradict each other
    solution = linprog(prices, A_eq=conditions[:-1], b_eq=amounts[:-1], bounds=(0, None), method="highs")
    assert solution.success, solution.message
    flow = cast("np.ndarray[tuple[int], np.dtype[np.float64]]", solution.x).reshape(num_sources, num_targets)
    return torch.from_numpy(flow).to(costs_ST)
