"""The next batches, and what the teacher has already said of them, fetched while a step runs."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from stillhouse.batches import batch_in_pinned_memory
from stillhouse.training.sources import BatchSource
from stillhouse.types import Batch, Features

Lookup = Callable[[Batch], "Features | None"]
Complete = Callable[[Batch], Batch]
BATCHES_AHEAD = 2


@final
class PrefetchSource(BatchSource):
    """The batches of another source, made in a thread of their own, each with the teacher's answers where they are at
    hand (`stillhouse.types.Batch.answers`).

    Only for sources whose batches draw nothing from the global random state: they are made earlier than they are used,
    so that a checkpoint would keep another state.

    Args:
        source: what makes the batches.
        lookup: gives a batch's answers, or None if they have to be computed.
        pinned: put all tensors into page-locked memory, from which a CUDA device fetches them beside its work.
    """

    def __init__(self, source: BatchSource, lookup: Lookup, *, pinned: bool = False) -> None:
        self.source, self.lookup, self.pinned = source, lookup, pinned
        self.num_batches = source.num_batches

    def epoch(self, number: int, skip: int) -> Iterator[Batch]:
        return _ahead(self.source.epoch(number, skip), self._completed)

    def _completed(self, batch: Batch) -> Batch:
        batch = dataclasses.replace(batch, answers=self.lookup(batch))
        return batch_in_pinned_memory(batch) if self.pinned else batch

    def state(self) -> dict[str, Any]:
        return self.source.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.source.restore(state)


def _ahead(batches: Iterator[Batch], complete: Complete) -> Iterator[Batch]:
    ready: queue.Queue[Batch | _End] = queue.Queue(maxsize=BATCHES_AHEAD)
    stopped = threading.Event()
    thread = threading.Thread(target=_fetch, args=(batches, complete, ready, stopped), name="stillhouse-prefetch",
                              daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:  # also where the loop stops in the middle of an epoch
        stopped.set()
        while thread.is_alive():
            _drain(ready)
            thread.join(timeout=0.01)


@dataclass(frozen=True)
class _End:
    """No batch comes any more, because there is none, or because of an error."""

    error: BaseException | None = None


def _fetch(batches: Iterator[Batch], complete: Complete, ready: queue.Queue[Batch | _End],
           stopped: threading.Event) -> None:
    end = _End()
    try:
        for batch in batches:
            if stopped.is_set():
                break
            ready.put(complete(batch))
    except BaseException as error:  # raised again in the training's own thread
        end = _End(error)
    ready.put(end)


def _drain(ready: queue.Queue[Batch | _End]) -> None:
    while not ready.empty():
        ready.get_nowait()
