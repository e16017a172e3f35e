"""How contenders are timed: in turns, medians, and not for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from stillhouse.export.timing import Contender, timed
from stillhouse.tasks import EncodedSplit
from stillhouse.tasks.batching import compact


class Clock:
    """Moves on when somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.worked: list[tuple[str, int]] = []

    def __call__(self) -> float:
        return self.now_s

    def contender(self, name: str, seconds: list[float], num_rows: int) -> Contender:
        """Takes these seconds, again and again."""
        rows = EncodedSplit(compact({"input_ids": [[1, 2]] * num_rows}), {"labels": torch.zeros(num_rows)}, {})

        def answer(batch: Mapping[str, Any]) -> None:
            self.now_s += seconds[len([who for who, _ in self.worked if who == name]) % len(seconds)]
            self.worked.append((name, len(batch["input_ids"])))

        return Contender(name, "torch fp32", answer, rows, 7)


def test_contenders_take_turns_and_medians_are_kept() -> None:
    clock = Clock()
    found = timed([clock.contender("a", [0.1, 0.2, 0.9], 50), clock.contender("b", [0.05], 50)], clock)
    assert [who for who, _ in clock.worked] == ["a", "b"] * (len(clock.worked) // 2)
    assert [size for _, size in clock.worked].count(32) == 2 * 9
    assert found[0].by_batch["1"] == {"ms": 200.0, "rows_per_s": 5.0}
    assert found[1].by_batch["32"] == {"ms": 50.0, "rows_per_s": 640.0}


def test_the_first_answer_does_not_count() -> None:
    clock = Clock()
    found = timed([clock.contender("slow start", [50.0] + [0.01] * 60, 1)], clock)
    assert found[0].by_batch == {"1": {"ms": 10.0, "rows_per_s": 100.0}}


@pytest.mark.parametrize(("num_rows", "sizes"), [(1, ["1"]), (20, ["1", "20"]), (100, ["1", "32"])])
def test_few_rows_make_one_smaller_batch(num_rows: int, sizes: list[str]) -> None:
    clock = Clock()
    assert list(timed([clock.contender("a", [0.1], num_rows)], clock)[0].by_batch) == sizes


def test_slow_models_answer_less_often() -> None:
    clock = Clock()
    timed([clock.contender("slow", [20.0], 40)], clock)
    assert [size for _, size in clock.worked] == [1] * 4 + [32] * 4
