"""Batches fetched ahead are the same batches, with what the teacher has said already."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from stillhouse.training import LoaderSource, PrefetchSource
from stillhouse.types import LOGITS, Batch, Features


class Loader:
    """Five batches; notes in which thread each was made."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.threads: list[str] = []

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for number in range(5):
            if number == self.fails_at:
                raise ValueError(f"batch {number} is broken")
            self.threads.append(threading.current_thread().name)
            yield {"x": torch.tensor([number])}


def every_second(batch: Batch) -> Features | None:
    number = int(batch.teacher["x"])
    return {LOGITS: torch.tensor([[float(number)]])} if number % 2 == 0 else None


def numbers(batches: Iterator[Batch]) -> list[int]:
    return [int(batch.student["x"]) for batch in batches]


def test_batches_come_in_order_from_another_thread() -> None:
    loader = Loader()
    source = PrefetchSource(LoaderSource(loader), every_second)
    assert source.num_batches == 5
    assert numbers(source.epoch(0, 0)) == [0, 1, 2, 3, 4]
    assert numbers(source.epoch(1, 3)) == [3, 4]
    assert set(loader.threads[:5]) == {"stillhouse-prefetch"}


def test_answers_are_there_where_they_were_at_hand() -> None:
    batches = list(PrefetchSource(LoaderSource(Loader()), every_second).epoch(0, 0))
    assert [None if b.answers is None else float(b.answers[LOGITS]) for b in batches] == [0.0, None, 2.0, None, 4.0]
    assert all(batch.teacher is batch.student for batch in batches)


def test_an_error_comes_where_its_batch_would() -> None:
    batches = PrefetchSource(LoaderSource(Loader(fails_at=2)), every_second).epoch(0, 0)
    assert [int(next(batches).student["x"]) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="batch 2 is broken"):
        next(batches)


def test_no_thread_is_left_when_the_epoch_is_left() -> None:
    batches: Any = PrefetchSource(LoaderSource(Loader()), every_second).epoch(0, 0)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "stillhouse-prefetch"]


def test_only_a_few_batches_are_made_ahead() -> None:
    loader = Loader()
    batches: Any = PrefetchSource(LoaderSource(loader), every_second).epoch(0, 0)
    next(batches)
    threading.Event().wait(0.2)
    assert len(loader.threads) <= 4
    batches.close()
