"""One rank of the two-process test of several tasks: trains on loaders of its own, and writes what it drew."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from stillhouse import DistillationConfig, MultiTaskDistiller
from tests.distillers.toys import adaptor, batches, sgd, student, tconf, teacher, weights

SEED, STEPS = 40, 25
LENGTHS = {0: {"a": 6, "b": 2}, 1: {"a": 3, "b": 3}}  # uneven on purpose: rank 0's decide for both


def main(folder: str) -> None:
    rank = dist.get_rank()
    np.random.seed(SEED + rank)
    seen: list[str] = []

    def taker(task: str) -> Any:
        return lambda batch: seen.append(task) or batch

    both = {"a": adaptor, "b": adaptor}
    distiller = MultiTaskDistiller(tconf(None), DistillationConfig(), {"a": teacher(1), "b": teacher(3)}, student(),
                                   both, both)
    loaders = {task: batches(n, seed=10 * rank + n) for task, n in LENGTHS[rank].items()}
    for num_steps in (10, STEPS - 10):
        distiller.train(sgd(distiller.model_S), loaders, num_steps, batch_postprocessors={t: taker(t) for t in "ab"})
    torch.save({"tasks": seen, "weights": weights(distiller.model_S)}, f"{folder}/rank{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    main(sys.argv[1])
    dist.destroy_process_group()
