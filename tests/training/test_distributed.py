"""Two processes train as one would, also when their data is uneven."""

from __future__ import annotations

import pytest
import torch

from tests.two_ranks import results_of_two_ranks

from .ddp_worker import KINDS, train
from .toy import collate, rows


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    return results_of_two_ranks("tests.training.ddp_worker", tmp_path_factory.mktemp("ranks"))


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
