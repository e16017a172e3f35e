"""A ready-made scheduler, for an optimizer that has got further parameter groups since the scheduler was made."""

from __future__ import annotations

from typing import Any, final

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau


def led_by(scheduler: Any, optimizer: Optimizer) -> Any:
    """The scheduler itself, or with `LateGroups` if the optimizer has groups that it was not made for.

    Schedulers of torch remember the last learning rate of every group they were made for, which tells the late ones.
    """
    if not hasattr(scheduler, "get_last_lr") or isinstance(scheduler, ReduceLROnPlateau):
        return scheduler
    known = len(scheduler.get_last_lr())
    return scheduler if known == len(optimizer.param_groups) else LateGroups(scheduler, optimizer, known)


@final
class LateGroups:
    """Steps a scheduler for the groups it was made for; the others' learning rates follow the first group's.

    Many schedulers fail when they find more groups than they were made for. A late group has at each step its own
    learning rate times the first group's share: of ``initial_lr``, or of ``max_lr`` where a schedule climbs to one. Its
    own rate is kept as its ``initial_lr``, from which a scheduler that is made later starts too.
    """

    def __init__(self, scheduler: Any, optimizer: Optimizer, known: int) -> None:
        self.scheduler, self.optimizer, self.known = scheduler, optimizer, known
        for group in self._late():
            group.setdefault("initial_lr", group["lr"])
        self._follow()

    def step(self) -> None:
        """The scheduler's step, then the late groups'."""
        groups = self.optimizer.param_groups
        everything = list(groups)
        groups[:] = everything[: self.known]
        try:
            self.scheduler.step()
        finally:
            groups[:] = everything
        self._follow()

    def get_last_lr(self) -> list[float]:
        """The learning rate of every group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> Any:
        """The scheduler's state; that of the late groups is in the optimizer's."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Go on from a kept state."""
        self.scheduler.load_state_dict(state)

    def _late(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups[self.known:]

    def _follow(self) -> None:
        leader = self.optimizer.param_groups[0]
        highest = leader.get("max_lr", leader["initial_lr"])
        share = leader["lr"] / highest if highest else 1.0
        for group in self._late():
            group["lr"] = group["initial_lr"] * share
