"""Where the time of a training step goes, measured in a few steps of a real training."""

from __future__ import annotations

import abc
import json
import os
import statistics
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import torch

from stillhouse.batches import num_rows
from stillhouse.errors import PlanError
from stillhouse.phases import REST, PhaseClock
from stillhouse.training import distributed
from stillhouse.types import Batch

_LABELS = {"data": "data", "cache": "teacher cache", "teacher": "teacher", "student": "student, forward",
           "losses": "losses", "backward": "backward", "optimizer": "optimizer", "logging": "logging",
           "checkpoints": "evaluation, checkpoints", REST: "rest"}
_TRACED_STEPS = 3  # a trace of more is a file that viewers are slow with, and a step looks like the next


class Lap(NamedTuple):
    """One step: its rows, and the seconds of each of its phases alone, which add up to all its time.

    ``beside_s`` are those of other threads meanwhile, such as the one that reads the cache.
    """

    rows: int
    phases_s: Mapping[str, float]
    beside_s: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """All its time."""
        return sum(self.phases_s.values())


@dataclass(frozen=True)
class StepProfile:
    """Where the time of the measured steps went.

    Attributes:
        laps: the steps.
        free_laps: as many others on CUDA in which no phase waited for the device; none on a CPU.
        peak_memory_bytes: the most memory that tensors took on CUDA in any of them.
    """

    laps: Sequence[Lap]
    free_laps: Sequence[Lap]
    device: str
    precision: str
    threads: int
    peak_memory_bytes: int | None = None

    @property
    def rows_per_s(self) -> float:
        """Rows a second on this process; evaluation and checkpoints, which most steps lack, are not counted."""
        laps = self.free_laps or self.laps
        seconds = sum(lap.seconds - lap.phases_s.get("checkpoints", 0.0) for lap in laps)
        return sum(lap.rows for lap in laps) / max(seconds, 1e-9)

    @cached_property
    def phases(self) -> dict[str, dict[str, float]]:
        """Of each phase ``median_ms`` and ``mean_ms`` over the steps, and its ``share`` of all their time."""
        return self._by_phase([lap.phases_s for lap in self.laps])

    @cached_property
    def beside(self) -> dict[str, dict[str, float]]:
        """The same of other threads; the share is that of the steps' time too."""
        return self._by_phase([lap.beside_s for lap in self.laps])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        free = [lap.seconds for lap in self.free_laps]
        return {
            "device": self.device, "precision": self.precision, "threads": self.threads, "torch": torch.__version__,
            "steps": len(self.laps), "rows_per_step": self._mean_rows, "rows_per_s": self.rows_per_s,
            "step": _numbers([lap.seconds for lap in self.laps]), "phases": self.phases, "beside": self.beside,
            "free_step": _numbers(free) if free else None, "peak_memory_bytes": self.peak_memory_bytes,
        }

    def __str__(self) -> str:
        step = _numbers([lap.seconds for lap in self.laps])
        lines = [f"{len(self.laps)} steps of {self._mean_rows:.1f} rows on {self.device} in "
                 f"{self.precision}, {self.threads} CPU threads, in ms",
                 f"{'':<25}{'median':>9}{'mean':>9}{'share':>9}"]
        named = {_LABELS[name]: numbers for name, numbers in self.phases.items()}
        others = {f"{_LABELS[name]}, beside it": numbers for name, numbers in self.beside.items()}
        lines += [f"{label:<25}{numbers['median_ms']:>9.2f}{numbers['mean_ms']:>9.2f}{100 * numbers['share']:>7.1f} %"
                  for label, numbers in {**named, "a step": step, **others}.items()]
        if self.free_laps:
            free = statistics.median(lap.seconds for lap in self.free_laps)
            lines.append(f"a step takes {1000 * free:.2f} ms when no phase waits for the device to end")
        if self.peak_memory_bytes is not None:
            lines.append(f"tensors take {self.peak_memory_bytes / 1e6:,.0f} MB at most")
        return "\n".join([*lines, f"{self.rows_per_s:,.0f} rows/s"])

    def _by_phase(self, laps: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
        total_s = sum(lap.seconds for lap in self.laps)
        return {name: _numbers([lap.get(name, 0.0) for lap in laps], total_s)
                for name in _LABELS if any(name in lap for lap in laps)}

    @property
    def _mean_rows(self) -> float:
        return statistics.fmean(lap.rows for lap in self.laps)


def _numbers(seconds: Sequence[float], total_s: float | None = None) -> dict[str, float]:
    return {"median_ms": 1000 * statistics.median(seconds), "mean_ms": 1000 * statistics.fmean(seconds),
            "share": sum(seconds) / max(total_s if total_s is not None else sum(seconds), 1e-9)}


@dataclass(frozen=True)
class Profile:
    """What is to be measured of a training: some steps after a warm-up, and a trace of a few more.

    The training is the same as without. Phases wait for a CUDA device to end, which slows steps down; so there as many
    steps are measured before that without waiting, for the rate.

    Attributes:
        output_dir: where ``profile.json`` and ``trace.json`` go; the latter is for https://ui.perfetto.dev or
            chrome://tracing. On rank 0, which measures itself alone.
        steps: how many are measured.
        warm_up: how many are trained before.
        tell: receives what was measured, as soon as it is.
    """

    output_dir: Path
    steps: int = 20
    warm_up: int = 5
    tell: Callable[[StepProfile], Any] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warm_up < 0:
            raise PlanError(f"a profile of {self.steps} steps after {self.warm_up} of warm-up: measure at least 1 "
                            "step, after at least 0")

    def require(self, total_steps: int, device: torch.device) -> None:
        """Raise `PlanError` if the training is too short for it."""
        beside = self.warm_up + _TRACED_STEPS
        each = 2 if device.type == "cuda" else 1
        if beside + each * self.steps <= total_steps:
            return
        possible = (total_steps - beside) // each
        remedy = f"measure at most {possible}, or train longer" if possible > 0 else "train longer"
        raise PlanError(f"a profile of {self.steps} steps takes {beside + each * self.steps} steps of training, "
                        f"{self.warm_up} to warm up and {_TRACED_STEPS} for the trace among them, and there are "
                        f"{total_steps}; {remedy}")


class Meter(abc.ABC):
    """Watches the steps of a training. Abstract."""

    @abc.abstractmethod
    def after_step(self, batches: Sequence[Batch]) -> None:
        """Called when a step on these micro-batches is over, its checkpoint included."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Called when training is over, but not after an error."""

    @abc.abstractmethod
    def close(self) -> None:
        """Called last, also after an error."""


def meter(profile: Profile | None, device: torch.device, precision: str) -> Meter:
    """What carries out a profile, or does nothing without one and on other ranks than 0."""
    return NoMeter() if profile is None or not distributed.is_main() else StepMeter(profile, device, precision)


@final
class NoMeter(Meter):
    """Measures nothing."""

    def after_step(self, batches: Sequence[Batch]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@final
class StepMeter(Meter):
    """Measures what a `Profile` asks for."""

    def __init__(self, profile: Profile, device: torch.device, precision: str) -> None:
        self.profile, self.device, self.precision = profile, device, precision
        self._laps: list[Lap] = []
        self._free_laps: list[Lap] = []
        self._has_trace = False
        self._course = self._measurement()
        next(self._course)

    def after_step(self, batches: Sequence[Batch]) -> None:
        self._course.send(sum(num_rows(batch.student) or 0 for batch in batches if not batch.ghost))

    def finish(self) -> None:
        if len(self._laps) == self.profile.steps:
            if not self._has_trace:
                warnings.warn(f"training was over within the {_TRACED_STEPS} steps after the measured ones, so there "
                              "is no trace.json; train longer, or measure fewer", stacklevel=2)
            return
        done = f"training was over after {len(self._laps)} of the {self.profile.steps} steps to be measured"
        if self._laps:
            self._tell()
        else:
            done += ", so there is no profile"
        warnings.warn(f"{done}; train longer, or measure fewer", stacklevel=2)

    def close(self) -> None:
        self._course.close()

    def _measurement(self) -> Generator[None, int, None]:
        """Goes on by one ``yield`` with each step, whose number of rows comes back."""
        for _ in range(self.profile.warm_up):
            yield
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            yield from self._timed(PhaseClock(self.device, waits=False), self.profile.steps, self._free_laps)
        yield from self._timed(PhaseClock(self.device), self.profile.steps, self._laps)
        self._tell()
        yield from self._traced()
        while True:
            yield

    def _timed(self, clock: PhaseClock, steps: int, laps: list[Lap]) -> Generator[None, int, None]:
        with clock.running():
            for _ in range(steps):
                rows = yield
                laps.append(Lap(rows, clock.lap(), clock.beside()))

    def _traced(self) -> Generator[None, int, None]:
        """The next steps as a file of all operations, under the names of their phases."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would print its own start and stop
        with torch.profiler.profile() as trace, PhaseClock(self.device, waits=False, traced=True).running():
            for _ in range(_TRACED_STEPS):
                yield
        trace.export_chrome_trace(str(self.profile.output_dir / "trace.json"))
        self._has_trace = True

    def _tell(self) -> None:
        memory = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        found = StepProfile(self._laps, self._free_laps, str(self.device), self.precision, torch.get_num_threads(),
                            memory)
        self.profile.output_dir.mkdir(parents=True, exist_ok=True)
        path = self.profile.output_dir / "profile.json"
        path.write_text(json.dumps(found.as_dict(), indent=2) + "\n", encoding="utf-8")
        if self.profile.tell is not None:
            self.profile.tell(found)
