"""One rank of the two-process tests: trains on its share of the rows and writes the trained weights."""

from __future__ import annotations

import sys
import warnings

import torch
import torch.distributed as dist

from stillhouse.objective import Objective
from stillhouse.plan import Distillation
from stillhouse.training import FitOptions, LoaderSource, fit
from stillhouse.training.bundle import Bundle
from tests.training.toy import make_plan, rows, split

# For each rank its rows and the sizes of its micro-batches; uneven on purpose.
SHARES = {0: ([0, 2, 3, 6, 7], [2, 2, 1]), 1: ([1, 4, 5], [1, 2])}


KINDS = ("declared", "opaque", "layers only")


def plan_of(kind: str) -> Distillation:
    """The toy plan; ``layers only`` leaves the student's output parameters out of the loss."""
    plan = make_plan(opaque=kind == "opaque")
    if kind != "layers only":
        return plan
    assert isinstance(plan.objective, Objective)
    objective = Objective([plan.objective.terms["hidden"]])
    return Distillation(plan.student, plan.adaptor, plan.teacher, objective)


def train(kind: str, batches: list[dict[str, torch.Tensor]], accumulation: int) -> torch.Tensor:
    """Two epochs of plain gradient descent; all trained weights."""
    plan = plan_of(kind)
    optimizer = torch.optim.SGD(Bundle(plan).parameters(), lr=0.3)
    options = FitOptions(num_epochs=2, accumulation=accumulation, max_grad_norm=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(plan, LoaderSource(batches), optimizer, options)
    return torch.cat([p.detach().flatten() for p in Bundle(plan).parameters()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    chosen = [rows()[i] for i in SHARES[dist.get_rank()][0]]
    micro_batches = split(SHARES[dist.get_rank()][1], chosen)
    weights = {kind: train(kind, micro_batches, accumulation=3) for kind in KINDS}
    torch.save(weights, f"{sys.argv[1]}/rank{dist.get_rank()}.pt")
    dist.destroy_process_group()
