"""Contenders that take turns, so that all of them meet the same weather on the machine.

Each is a process of its own. It sets itself up, trains its warm-up steps and says that it is ready; then it trains
``turn_steps`` steps whenever it is told to, and answers with the seconds that they took. Between its turns a process is
stopped whole (SIGSTOP), so that nothing it does in the background goes on while another is timed, or is left out of its
own time. In every second turn the order is reversed.

A contender's module calls ``Pace(job).start()`` and trains as it always would: the pace hooks into every optimizer's
``step``, whoever made it. This file imports torch alone, for contenders live in other environments too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks import memory
from benchmarks.setting import Job

_TAIL_BYTES = 3000
_GOODBYE_S = 20.0


class StoppedError(BaseException):
    """Raised inside a contender's training when no more turns are wanted. No ``except Exception`` stops it."""


class Pace:
    """The contender's side: counts optimizer steps, and holds training still between turns."""

    def __init__(self, job: Job, warmup_steps: int | None = None) -> None:
        self._left = job.warmup_steps if warmup_steps is None else warmup_steps
        self._turn_steps = job.turn_steps
        self._started: float | None = None
        # Whatever the training prints goes to the log; the real standard output is for the conversation.
        self._replies: IO[str] = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def start(self) -> None:
        """From here on every optimizer step of this process counts."""
        register_optimizer_step_post_hook(self._after_step)

    def _after_step(self, *_: Any) -> None:
        self._left -= 1
        if self._left:
            return
        _finish_device()
        seconds = None if self._started is None else time.perf_counter() - self._started
        self._replies.write(json.dumps({"seconds": seconds, "peak_rss_mb": memory.peak_mb()}) + "\n")
        if sys.stdin.readline().strip() != "go":
            raise StoppedError
        self._left = self._turn_steps
        self._started = time.perf_counter()


@contextmanager
def until_stopped() -> Iterator[None]:
    """Training inside ends quietly when no more turns are wanted."""
    with suppress(StoppedError):
        yield


def _finish_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass
class Contender:
    """A command that takes part, on the coordinator's side."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, log_dir: Path) -> None:
        """Start the process and wait until it has warmed up; then it stands still. Raises `ContenderError`."""
        self._log = log_dir / f"{self.name.replace(' ', '-')}.log"
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                             text=True, env={**os.environ, **self.environment})
        self._reply()

    def turn(self) -> float:
        """Let it train one turn; the seconds. Raises `ContenderError`."""
        assert self._process is not None and self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._reply()["seconds"])

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is None:
            return
        with self._process as process:  # closes both ends of the conversation, and waits
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_GOODBYE_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _reply(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
            raise ContenderError(f"{self.name} ended with code {self._process.wait()}; its log ends with:\n{tail}")
        self._process.send_signal(signal.SIGSTOP)
        reply: dict[str, Any] = json.loads(line)
        self.peak_rss_mb: int = reply["peak_rss_mb"]
        return reply


class TakesPart(Protocol):
    """What can take turns: a `Contender`, or several as one."""

    name: str

    def start(self, log_dir: Path) -> None:
        """Set up and warm up. Raises `ContenderError`."""

    def turn(self) -> float:
        """Train one turn; the seconds. Raises `ContenderError`."""

    def stop(self) -> None:
        """End."""


class ContenderError(RuntimeError):
    """A contender's process ended before its time; the message holds the end of its log."""


def take_turns(contenders: Sequence[TakesPart], num_turns: int, log_dir: Path) -> dict[str, list[float]]:
    """Seconds of every turn of each contender, by name. Raises `ContenderError`."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    try:
        for contender in contenders:
            _tell(f"setting up: {contender.name}")
            contender.start(log_dir)
        for turn in range(num_turns):
            for contender in contenders if turn % 2 == 0 else reversed(contenders):
                seconds[contender.name].append(contender.turn())
            _tell(f"turn {turn + 1} of {num_turns}: " + ", ".join(f"{name} {values[-1]:.1f} s"
                                                                   for name, values in seconds.items()))
    finally:
        for contender in contenders:
            contender.stop()
    return seconds


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
