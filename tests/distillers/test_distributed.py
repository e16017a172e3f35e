"""Two processes that train several tasks draw the same ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from .task_worker import LENGTHS, SEED, STEPS

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.distributed
def test_two_processes_draw_the_tasks_of_rank_zero_and_keep_one_student(tmp_path: Path) -> None:
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                                "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.distillers.task_worker", str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE)
                 for rank in range(2)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors.decode()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    zero, one = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    np.random.seed(SEED)
    share = LENGTHS[0]["a"] / sum(LENGTHS[0].values())
    wanted = [str(np.random.choice(["a", "b"], p=[share, 1 - share])) for _ in range(STEPS)]
    assert zero["tasks"] == one["tasks"] == wanted and set(wanted) == {"a", "b"}
    assert torch.equal(zero["weights"], one["weights"])
