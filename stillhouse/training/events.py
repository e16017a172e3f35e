"""What happens during training, as frozen values, and the sinks that receive them.

A sink is anything with ``emit(event)``; five lines make one:

    class Print(Sink):
        def emit(self, event):
            print(event)
"""

from __future__ import annotations

import abc
import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from stillhouse.training.live_line import LiveLine, NoLine, NotebookLine

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Event:
    """Something that happened after ``step`` optimizer steps. Fields ending in ``_s`` are seconds or rates."""

    kind: ClassVar[str]
    step: int

    def as_dict(self) -> dict[str, Any]:
        """The event as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"event": self.kind} | {name: _plain(value) for name, value in values.items()}


@dataclass(frozen=True)
class RunStarted(Event):
    """Training starts, or goes on after a resume (``step`` above 0). ``total_steps`` is None if unknown."""

    kind = "started"
    total_steps: int | None = None


@dataclass(frozen=True)
class StepLogged(Event):
    """The values since the last logged step: means over those steps."""

    kind = "step"
    epoch: int = 0
    loss: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    gradient_norm: float | None = None
    steps_per_s: float = 0.0


@dataclass(frozen=True)
class Evaluated(Event):
    """The student was evaluated."""

    kind = "evaluation"
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: bool = False
    seconds_s: float = 0.0


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on disk."""

    kind = "checkpoint"
    name: str = ""


@dataclass(frozen=True)
class RunFinished(Event):
    """Training ended. ``reason`` is ``"done"`` or ``"early stopping"``."""

    kind = "finished"
    reason: str = "done"
    seconds_s: float = 0.0


class Sink(abc.ABC):
    """Receives events. Abstract: give ``emit``."""

    @abc.abstractmethod
    def emit(self, event: Event) -> None:
        """Take one event."""

    def position(self) -> int | None:
        """How many bytes of a log this sink has written, if a resume should cut it there."""
        return None

    def rewind(self, position: int) -> None:  # noqa: B027 - optional by design
        """Forget what was written after ``position``."""

    def close(self) -> None:  # noqa: B027 - optional by design
        """Called once, at the end, also after an error."""


@final
class JsonLinesSink(Sink):
    """One JSON object a line, appended to a file."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")

    def emit(self, event: Event) -> None:
        self._file.write(json.dumps(event.as_dict()).encode() + b"\n")
        self._file.flush()

    def position(self) -> int:
        return self._file.tell()

    def rewind(self, position: int) -> None:
        self._file.truncate(position)
        self._file.seek(position)

    def close(self) -> None:
        self._file.close()


@final
class ConsoleSink(Sink):
    """A progress bar with rate, remaining time, loss and metrics; plain lines where there is no terminal.

    In a notebook a line of text in the cell's output takes the bar's place. ``console`` is stderr if nothing is said.
    """

    def __init__(self, title: str = "training", console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.title = title
        self._console = console or Console(stderr=True)
        self._live: LiveLine = NotebookLine() if self._console.is_jupyter and not self._console.quiet else NoLine()
        self._total: int | None = None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=None, rate="", note="")
        self._note: dict[str, str] = {}

    def emit(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._total = event.total_steps
            self._progress.start()
            self._progress.update(self._task, total=event.total_steps, completed=event.step)
            self._live.show(f"{self.title}: step {event.step}{self._of_all()}")
        elif isinstance(event, StepLogged):
            self._note["loss"] = f"{event.loss:.4f}"
            self._progress.update(self._task, completed=event.step, rate=f"{event.steps_per_s:.1f} steps/s",
                                  note=self._notes())
            self._live.show(f"{self.title}: step {event.step}{self._of_all()}, {event.steps_per_s:.1f} steps/s"
                            f"{self._left(event)}, {self._notes()}")
        elif isinstance(event, Evaluated):
            self._note |= {name: f"{value:.4f}" for name, value in event.metrics.items()}
            self._line(f"step {event.step}: {self._notes()}" + (" (best so far)" if event.best else ""))
        elif isinstance(event, RunFinished):
            self._line(f"{event.reason} after {event.step} steps, {event.seconds_s:.0f} s; {self._notes()}")

    def close(self) -> None:
        self._progress.stop()

    def _of_all(self) -> str:
        return "" if self._total is None else f" of {self._total}"

    def _left(self, event: StepLogged) -> str:
        if self._total is None or event.step >= self._total or event.steps_per_s <= 0:
            return ""
        return f", about {(self._total - event.step) / event.steps_per_s:.0f} s left"

    def _notes(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._note.items())

    def _line(self, text: str) -> None:
        self._console.print(f"{self.title}: {text}", highlight=False, soft_wrap=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
