"""Two processes of the Trainer make the step that one would make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.two_ranks import results_of_two_ranks

from .parts import naive_gradients, naive_loss, rows, trainer


@pytest.mark.distributed
def test_two_ranks_with_accumulation_make_the_step_of_one_large_batch(tmp_path: Path) -> None:
    ranks = results_of_two_ranks("tests.trainer_bridge.rank_worker", tmp_path)
    made = trainer(tmp_path / "alone")
    wanted, loss = naive_gradients(made, rows())
    norm = torch.stack([value.norm() for value in wanted.values()]).norm()
    for rank in ranks:
        assert rank["wrapper"] == "DistributedDataParallel" and len(rank["steps"]) == 2
        for step in rank["steps"]:
            assert set(step) == set(wanted)
            for name, value in step.items():
                torch.testing.assert_close(value, wanted[name] * 0.05 / (norm + 1e-6), rtol=1e-9, atol=1e-12)
        terms = {name: float(value.detach()) for name, value in naive_loss(made, rows()).items()}
        assert float(rank["logs"]["loss"]) == pytest.approx(loss, rel=1e-6)
        assert float(rank["logs"]["loss/kd"]) == pytest.approx(terms["kd"], rel=1e-6)
        assert float(rank["logs"]["loss/hidden_mse 2-1"]) == pytest.approx(terms["hidden"], rel=1e-6)
    first, second = (rank["steps"] for rank in ranks)
    assert all(torch.equal(own, second[i][name]) for i, step in enumerate(first) for name, own in step.items())
