"""Where micro-batches come from, epoch by epoch, and how they are grouped into optimizer steps."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from stillhouse.batches import as_batch, windows
from stillhouse.errors import DataError
from stillhouse.training import distributed, randomness
from stillhouse.types import Batch

Postprocessor = Callable[[Any], Any]


class BatchSource(abc.ABC):
    """Gives the micro-batches of each epoch. Abstract.

    ``epoch(n, skip)`` gives epoch n's batches without the first ``skip``. It skips before it returns, so that the
    global random state is then where it was when the next batch was drawn in an uninterrupted run. The order depends
    on n and on the global random state at the call, and on nothing else. ``num_batches`` is an epoch's length, None if
    unknown.
    """

    num_batches: int | None = None

    @abc.abstractmethod
    def epoch(self, number: int, skip: int) -> Iterator[Batch]:
        """The batches of one epoch."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep beside the epoch and the position in it."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional by design
        """Go on from a kept state."""


@final
class LoaderSource(BatchSource):
    """The user's own loader: any iterable of batches that can be iterated again for each epoch."""

    def __init__(
        self, loader: Iterable[Any], postprocessor: Postprocessor | None = None, task: str = "default"
    ) -> None:
        self.loader, self.postprocessor, self.task = loader, postprocessor, task
        self.num_batches = _length(loader)

    def epoch(self, number: int, skip: int) -> Iterator[Batch]:
        for path in (("sampler",), ("batch_sampler",), ("batch_sampler", "sampler")):
            holder: Any = self.loader
            for name in path:
                holder = getattr(holder, name, None)
            if hasattr(holder, "set_epoch"):
                holder.set_epoch(number)
        iterator = iter(self.loader)
        for _ in range(skip):
            next(iterator, None)
        return self._batches(iterator)

    def _batches(self, iterator: Iterator[Any]) -> Iterator[Batch]:
        for raw in iterator:
            yield as_batch(self.postprocessor(raw) if self.postprocessor else raw, self.task)


@final
class TaskSource(BatchSource):
    """Draws a task for every micro-batch, then that task's next batch; endless.

    The draws are those of ``np.random.choice(tasks, p=probabilities)`` from numpy's global random state as it is when
    this is made, taken from rank 0 so that every rank draws the same task, and go on after a resume. A task's
    probability grows with ``batches ** tau`` (all tasks alike if a length is unknown).
    """

    def __init__(
        self,
        loaders: Mapping[str, Iterable[Any]],
        tau: float = 1.0,
        postprocessors: Mapping[str, Postprocessor] | None = None,
    ) -> None:
        self.sources = {task: LoaderSource(loader, (postprocessors or {}).get(task), task)
                        for task, loader in loaders.items()}
        lengths = [source.num_batches for source in self.sources.values()]
        sizes = [float(length or 0) ** tau for length in lengths] if None not in lengths else [1.0] * len(lengths)
        if sum(sizes) == 0:
            raise DataError(f"the loaders of all tasks ({', '.join(loaders)}) are empty")
        shares = [size / sum(sizes) for size in sizes]
        # Loaders of ranks may differ in length; with shares of their own, ranks would draw different tasks.
        state, self.probabilities = distributed.same_on_all((np.random.get_state(), shares))
        self.random = np.random.RandomState()
        self.random.set_state(state)
        self._positions = {task: _Position() for task in loaders}

    def epoch(self, number: int, skip: int) -> Iterator[Batch]:
        streams = {task: self._cycle(task) for task, position in self._positions.items()}
        for task, position in self._positions.items():
            if position.start is not None:  # going on after a resume: build the loader's iterator as it was built then
                randomness.restore(position.start)
                position.iterator = self.sources[task].epoch(position.epoch, position.consumed)
        return self._draw(streams)

    def _draw(self, streams: Mapping[str, Iterator[Batch]]) -> Iterator[Batch]:
        tasks = list(streams)
        while True:
            task = tasks[self.random.choice(len(tasks), p=self.probabilities)]
            # The draw is from this generator of its own, so that ranks agree whatever else draws from the global one.
            # That one moves on by a number too, so that a second training goes on instead of repeating the first.
            np.random.random_sample()
            yield next(streams[task])

    def _cycle(self, task: str) -> Iterator[Batch]:
        position = self._positions[task]
        while True:
            if position.iterator is None:
                position.start = randomness.capture()
                position.iterator = self.sources[task].epoch(position.epoch, 0)
            for batch in position.iterator:
                position.consumed += 1
                yield batch
            if position.consumed == 0:
                raise DataError(f"the loader of task {task!r} gave no batch")
            self._positions[task].advance()

    def state(self) -> dict[str, Any]:
        random_state: Any = self.random.get_state(legacy=True)
        name, keys, *rest = random_state
        positions = {task: [p.epoch, p.consumed, p.start] for task, p in self._positions.items()}
        return {"random": [str(name), keys.tolist(), *rest], "positions": positions}

    def restore(self, state: Mapping[str, Any]) -> None:
        name, keys, *rest = state["random"]
        self.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        for task, (epoch, consumed, start) in state["positions"].items():
            self._positions[task] = _Position(epoch, consumed, start)


@dataclass
class _Position:
    """Where a task's loader is: its epoch, batches taken of it, and the random state at the epoch's start."""

    epoch: int = 0
    consumed: int = 0
    start: Any = None
    iterator: Iterator[Batch] | None = None

    def advance(self) -> None:
        self.epoch, self.consumed, self.start, self.iterator = self.epoch + 1, 0, None, None


@dataclass(frozen=True)
class Window:
    """The micro-batches of one optimizer step. An empty one marks the end of an epoch.

    ``consumed`` is the number of micro-batches of ``epoch`` taken so far, these included.
    """

    batches: list[Batch]
    epoch: int
    consumed: int


class EpochHooks(Protocol):
    """What the loop does around the start of an epoch: keep, or bring back, the random state."""

    def before_epoch(self) -> None:
        """Called before the epoch's iterator is made."""

    def after_skip(self) -> None:
        """Called when its first batches have been skipped."""


def epoch_windows(source: BatchSource, size: int, epoch: int, skip: int, hooks: EpochHooks) -> Iterator[Window]:
    """Windows of one epoch after another; a left-over shorter one trains too, then an empty window marks the end."""
    while True:
        consumed = skip
        for batches in distributed.aligned(windows(_started(source, epoch, skip, hooks), size)):
            consumed += sum(not batch.ghost for batch in batches)
            yield Window(batches, epoch, consumed)
        _require_data(epoch, consumed)
        yield Window([], epoch + 1, 0)
        epoch, skip = epoch + 1, 0


def crossing_windows(source: BatchSource, size: int, epoch: int, skip: int, hooks: EpochHooks) -> Iterator[Window]:
    """Full windows that go on over the end of an epoch; endless."""
    position = [epoch, skip]

    def batches() -> Iterator[Batch]:
        while True:
            for batch in _started(source, position[0], position[1], hooks):
                position[1] += 1
                yield batch
            _require_data(position[0], position[1])
            position[0], position[1] = position[0] + 1, 0

    for window in distributed.aligned(windows(batches(), size)):
        yield Window(window, position[0], position[1])


def _started(source: BatchSource, epoch: int, skip: int, hooks: EpochHooks) -> Iterator[Batch]:
    hooks.before_epoch()
    iterator = source.epoch(epoch, skip)
    hooks.after_skip()
    yield from iterator


def _require_data(epoch: int, seen: int) -> None:
    if seen == 0:
        raise DataError("the data loader gave no batch" + (f" in epoch {epoch + 1}; a generator can be used only once: "
                        "give a list or a DataLoader" if epoch else ""))


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None
