"""Two processes that train several tasks draw the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.two_ranks import results_of_two_ranks

from .task_worker import LENGTHS, SEED, STEPS


@pytest.mark.distributed
def test_two_processes_draw_the_tasks_of_rank_zero_and_keep_one_student(tmp_path: Path) -> None:
    zero, one = results_of_two_ranks("tests.distillers.task_worker", tmp_path)
    np.random.seed(SEED)
    share = LENGTHS[0]["a"] / sum(LENGTHS[0].values())
    wanted = [str(np.random.choice(["a", "b"], p=[share, 1 - share])) for _ in range(STEPS)]
    assert zero["tasks"] == one["tasks"] == wanted and set(wanted) == {"a", "b"}
    assert torch.equal(zero["weights"], one["weights"])
