"""Two processes that talk over gloo, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]


def results_of_two_ranks(module: str, folder: Path) -> list[dict[str, Any]]:
    """What each rank of ``python -m module FOLDER`` left as ``rankN.pt`` in the folder, in order of rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                                "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, "-m", module, str(folder)], cwd=ROOT, stderr=subprocess.PIPE,
                                  env=environment | {"RANK": str(rank)}) for rank in range(2)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors.decode()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
