"""A ready-made scheduler, for an optimizer that has got further parameter groups since the scheduler was made."""

from __future__ import annotations

from typing import Any, final

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau


def led_by(scheduler: Any, optimizer: Optimizer) -> Any:
    """The scheduler itself, or with `LateGroups` if the optimizer has groups that it was not made for.

    Schedulers of torch leave ``initial_lr`` in every group they were made for, which tells the late ones.
    """
    known = ["initial_lr" in group for group in optimizer.param_groups]
    if all(known) or not any(known) or isinstance(scheduler, ReduceLROnPlateau):
        return scheduler
    return LateGroups(scheduler, optimizer)


@final
class LateGroups:
    """Steps a scheduler for the groups it was made for; the others' learning rates follow the first group's.

    Many schedulers fail when they find more groups than they were made for. A late group keeps its own ``lr`` as
    ``base_lr``, and has at each step that times the first group's ``lr / initial_lr``.
    """

    def __init__(self, scheduler: Any, optimizer: Optimizer) -> None:
        self.scheduler, self.optimizer = scheduler, optimizer
        for group in self._late():
            group.setdefault("base_lr", group["lr"])
        self._follow()

    def step(self) -> None:
        """The scheduler's step, then the late groups'."""
        groups = self.optimizer.param_groups
        everything = list(groups)
        groups[:] = [group for group in everything if "initial_lr" in group]
        try:
            self.scheduler.step()
        finally:
            groups[:] = everything
        self._follow()

    def state_dict(self) -> Any:
        """The scheduler's state; that of the late groups is in the optimizer's."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Go on from a kept state."""
        self.scheduler.load_state_dict(state)

    def _late(self) -> list[dict[str, Any]]:
        return [group for group in self.optimizer.param_groups if "initial_lr" not in group]

    def _follow(self) -> None:
        leader = next(group for group in self.optimizer.param_groups if "initial_lr" in group)
        share = leader["lr"] / leader["initial_lr"] if leader["initial_lr"] else 1.0
        for group in self._late():
            group["lr"] = group["base_lr"] * share
