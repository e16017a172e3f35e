"""Promises of the measured speeds: every batch size is there, whatever the rows, and it does not take long."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.recipe import measuring
from stillhouse.recipe.fitting import Ground
from stillhouse.recipe.measuring import size_and_speed, together
from stillhouse.training import Precision


class Asked(nn.Module):
    """Remembers how many rows it was given."""

    def __init__(self, pause_s: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.pause_s = pause_s
        self.sizes: list[int] = []


class Rows:
    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def batch(self, rows: Any) -> Any:
        assert all(0 <= row < self.number for row in rows)
        return {"rows": torch.tensor(rows)}


class OneTask:
    reads = frozenset()

    def adaptor(self) -> Any:
        return self

    def run(self, model: Asked, batch: Any, keys: Any, state: Any) -> None:
        time.sleep(model.pause_s)
        model.sizes.append(len(batch["rows"]))


def measured(num_rows: int, pause_s: float = 0.0) -> tuple[Any, list[int]]:
    model = Asked(pause_s)
    ground: Any = Ground(OneTask(), None, None, torch.device("cpu"))  # type: ignore[arg-type]
    return size_and_speed(model, Rows(num_rows), ground, Precision()), model.sizes  # type: ignore[arg-type]


@pytest.mark.parametrize("num_rows", [1, 5, 40, 400])
def test_batches_are_full_whatever_the_number_of_rows(num_rows: int) -> None:
    found, sizes = measured(num_rows)
    assert set(sizes) == {1, 8, 32} and set(found["latency_by_batch"]) == {"1", "8", "32"}
    assert sizes.count(1) == min(50, num_rows) + min(3, num_rows)
    assert sizes.count(32) <= 8 + 3 and sizes.count(8) <= 12 + 3


def test_a_slow_model_is_measured_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_LONGEST_S", 0.05)
    found, sizes = measured(400, pause_s=0.03)
    assert [sizes.count(size) for size in (1, 8, 32)] == [4, 4, 4]  # three to warm up, one that counts
    for size, speed in found["latency_by_batch"].items():
        assert speed["ms"] >= 30 and speed["rows_per_s"] == pytest.approx(1000 * int(size) / speed["ms"], rel=0.01)


def test_models_that_answer_one_after_another_take_the_sum() -> None:
    one = {"parameters": 10, "size_bytes": 40, "latency_ms": 4.0, "throughput_rows_per_s": 1000.0, "latency_by_batch": {
        "1": {"ms": 4.0, "rows_per_s": 250.0}, "8": {"ms": 10.0, "rows_per_s": 800.0},
        "32": {"ms": 32.0, "rows_per_s": 1000.0}}}
    both = together([one, one])
    assert both == {"parameters": 20, "size_bytes": 80, "latency_ms": 8.0, "throughput_rows_per_s": 500.0,
                    "latency_by_batch": {"1": {"ms": 8.0, "rows_per_s": 125.0}, "8": {"ms": 20.0, "rows_per_s": 400.0},
                                         "32": {"ms": 64.0, "rows_per_s": 500.0}}}
    assert together([one]) == one and together([]) == {}
