"""Two processes train as one would, also when their data is uneven."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .ddp_worker import KINDS, train
from .toy import collate, rows

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                                "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.training.ddp_worker", str(folder)]
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE)
                 for rank in range(2)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize("kind", KINDS)
def test_two_uneven_ranks_train_as_one_process_on_all_rows(ranks: list[dict[str, torch.Tensor]], kind: str) -> None:
    alone = train(kind, [collate(rows())], accumulation=1)
    for weights in ranks:
        torch.testing.assert_close(weights[kind], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.distributed
def test_ranks_agree_to_the_last_bit(ranks: list[dict[str, torch.Tensor]]) -> None:
    for name, weights in ranks[0].items():
        assert torch.equal(weights, ranks[1][name])
