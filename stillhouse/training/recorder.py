"""Logging without stalls: values stay tensors until the logging interval."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from stillhouse.errors import NonFiniteLossError
from stillhouse.training import distributed
from stillhouse.training.events import Event, Sink, StepLogged
from stillhouse.training.step import StepResult


class Recorder:
    """Adds up what the steps gave and tells the sinks every ``log_every`` steps, as means over those steps."""

    def __init__(self, sinks: Sequence[Sink], log_every: int) -> None:
        self._sinks = sinks if distributed.is_main() else ()
        self._log_every = log_every
        self._pending: list[StepResult] = []
        self._norm: Tensor | None = None
        self._since = time.perf_counter()

    def emit(self, event: Event) -> None:
        """Give an event to every sink (on rank 0)."""
        for sink in self._sinks:
            sink.emit(event)

    def check_finite(self, step: int, result: StepResult) -> None:
        """Raise `NonFiniteLossError` if this step's loss is not finite; free on a CPU, so checked before the update."""
        if result.loss.device.type == "cpu":
            _require_finite(step, result)

    def record(self, step: int, epoch: int, result: StepResult, norm: Tensor | None, optimizer: Optimizer) -> None:
        """Take one step's values; at the interval, log them."""
        self._pending.append(result)
        self._norm = norm
        if step % self._log_every == 0:
            self.flush(step, epoch, optimizer)

    def flush(self, step: int, epoch: int, optimizer: Optimizer) -> None:
        """Log what is pending, if anything is."""
        if not self._pending:
            return
        _require_finite(step, self._pending[-1])
        loss, parts = means_of(self._pending)
        elapsed = time.perf_counter() - self._since
        self.emit(StepLogged(
            step, epoch=epoch, loss=loss, parts=parts,
            learning_rate=float(optimizer.param_groups[0]["lr"]),
            gradient_norm=None if self._norm is None else float(self._norm),
            steps_per_s=len(self._pending) / max(elapsed, 1e-9),
        ))
        self._pending, self._since = [], time.perf_counter()

    def positions(self) -> list[int | None]:
        """How far each sink's log has been written."""
        return [sink.position() for sink in self._sinks]

    def rewind(self, positions: Sequence[int | None]) -> None:
        """Cut each sink's log at the kept position."""
        for sink, position in zip(self._sinks, positions, strict=False):
            if position is not None and sink.position() is not None:
                sink.rewind(position)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()


def means_of(results: Sequence[StepResult]) -> tuple[float, dict[str, float]]:
    """The loss and each term, as means over steps, of all ranks together; every rank must call it."""
    names = sorted({name for result in results for name in result.parts})
    columns = [_mean([result.loss for result in results])]
    columns += [_mean([result.parts[name] for result in results if name in result.parts]) for name in names]
    loss, *values = distributed.sum_over_ranks(torch.stack(columns)).tolist()
    return loss, dict(zip(names, values, strict=True))


def _mean(values: Sequence[Tensor]) -> Tensor:
    """The mean of scalars, on the CPU; they are added up where they are, so that only their sum is waited for."""
    total = torch.zeros((), dtype=torch.float64)
    for value in values:
        total = total + value.detach()
    return total.cpu() / len(values)


def _require_finite(step: int, result: StepResult) -> None:
    if torch.isfinite(result.loss):
        return
    bad = [name for name, value in result.parts.items() if not torch.isfinite(value)]
    raise NonFiniteLossError(
        f"the loss is {float(result.loss)} at step {step} (in {', '.join(bad) or 'the total'}); training stopped. "
        "Checkpoints written before are intact. Usual remedies: a lower learning rate, max_grad_norm=1.0, "
        "precision='fp32' and a look at the data for rows whose labels or values are not finite"
    )
