"""The objective: named, weighted losses. The one place where sums are divided by counts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses.base import Loss, SumOverRanks, Width
from stillhouse.needs import Needs
from stillhouse.schedules import Constant, Schedule, is_always_zero
from stillhouse.types import ALL_LOGITS, LABELS, LOGITS, Features, Key, Masks, Over, Progress, logits_mask_name

Counts = Mapping[Over, Tensor]
ONE = Constant(1.0)


@dataclass(frozen=True)
class Term:
    """One named loss and its weight over time.

    Attributes:
        name: what the loss is called in events and logs; unique in an objective.
        loss: the loss.
        weight: its weight as a function of progress; a term whose weight is 0 is not computed.
        all_heads: apply the loss (a logits loss for head 0) to every logits head, and add.
        optional: leave the term out of a batch in which a side lacks its tensors, instead of failing.
        monitored: only watch the value: it is computed without a graph and never added.
    """

    name: str
    loss: Loss
    weight: Schedule = ONE
    all_heads: bool = False
    optional: bool = False
    monitored: bool = False

    def needs(self) -> Needs:
        """What the loss reads; every logits head instead of head 0 with ``all_heads``."""
        if not self.all_heads:
            return self.loss.needs
        return Needs(*(frozenset(ALL_LOGITS if k == LOGITS else k for k in side)
                       for side in (self.loss.needs.student, self.loss.needs.teacher)))

    def active(self, progress: Progress) -> bool:
        """Whether the term is computed at this point of training."""
        return self.monitored or self.weight(progress) != 0


class Part(NamedTuple):
    """The name of one sum: a term, and the logits head it was taken of."""

    term: str
    head: int


class Objective(nn.Module):
    """Terms of one task. Projections and other parameters of the losses are its submodules."""

    def __init__(self, terms: Iterable[Term]) -> None:
        super().__init__()
        terms = list(terms)
        self.terms = {term.name: term for term in terms}
        self.losses = nn.ModuleDict({name.replace(".", "/"): term.loss for name, term in self.terms.items()})
        if len(self.losses) == 0 or len(self.losses) != len(terms):
            raise PlanError("an objective needs at least one term, each with a name of its own")

    def for_task(self, task: str) -> Objective:
        """The objective of a task: itself, for any."""
        return self

    def tasks(self) -> tuple[tuple[str, Objective], ...]:
        """Every (task, objective)."""
        return (("default", self),)

    def needs(self, progress: Progress | None = None) -> Needs:
        """The union over terms: those active at ``progress``, or those that may ever be."""
        needs = Needs()
        for term in self.terms.values():
            if term.active(progress) if progress else term.monitored or not is_always_zero(term.weight):
                needs |= term.needs()
        return needs

    def overs(self) -> frozenset[Over]:
        """Every denominator that a term for head 0 uses."""
        return frozenset(over for term in self.terms.values() for over in term.loss.overs)

    def check(self, student_width: Width, teacher_width: Width) -> None:
        """Raise `PlanError` where known widths do not fit."""
        for term in self.terms.values():
            if term.monitored or not is_always_zero(term.weight):
                term.loss.check(student_width, teacher_width)

    def trains(self, progress: Progress) -> bool:
        """Whether any term would give a gradient at this point."""
        return any(not term.monitored and term.active(progress) for term in self.terms.values())

    def forward(self, student: Features, teacher: Features, masks: Masks, progress: Progress) -> dict[Part, Tensor]:
        """The sum of each active term and head. Raises `OutputError` if a tensor is missing."""
        sums: dict[Part, Tensor] = {}
        for term in self.terms.values():
            if not term.active(progress):
                continue
            for head in _heads(student, teacher) if term.all_heads else (0,):
                views = _view(student, head), _view(teacher, head)
                missing = _missing(term.loss.needs, *views)
                if term.optional and any(key != LABELS for _, key in missing):  # labels are only needed if asked for
                    warnings.warn(f"loss {term.name!r} has a weight but is left out: {_named(missing)} was not given",
                                  stacklevel=2)
                    continue
                if missing:
                    raise OutputError(f"loss {term.name!r} needs {_named(missing)}, which was not given")
                self._require_mask(self.over(Part(term.name, head)), masks)
                with torch.set_grad_enabled(torch.is_grad_enabled() and not term.monitored):
                    sums[Part(term.name, head)] = term.loss(*views, _view_masks(masks, head))
        return sums

    @staticmethod
    def _require_mask(over: Over, masks: Masks) -> None:
        if over.mask not in masks:
            known = ", ".join(masks) or "nothing"
            raise OutputError(f"a loss over {over} needs that mask, and there are masks for {known}; "
                              "give it in masks=, as (rows, positions) or (rows, 1), and one for each logits head")

    def over(self, part: Part) -> Over:
        """The denominator of a sum."""
        over = self.terms[part.term].loss.over
        of_logits = part.head > 0 and over.mask == "logits"
        return Over(over.unit, logits_mask_name(part.head)) if of_logits else over

    def after_step(self, sum_over_ranks: SumOverRanks) -> None:
        """Called after each optimizer step, for losses that learn from what they saw."""
        for term in self.terms.values():
            term.loss.after_step(sum_over_ranks)

    def may_train(self) -> bool:
        """Whether any term ever gives a gradient."""
        return any(not term.monitored and not is_always_zero(term.weight) for term in self.terms.values())

    def depends_on_batches(self) -> list[str]:
        """The terms whose value depends on how rows are grouped into micro-batches."""
        return [term.name for term in self.terms.values() if term.loss.scope == "batch"]

    def counts(self, masks: Masks) -> dict[Over, Tensor]:
        """The number of units of every denominator that the masks cover."""
        counts = {}
        for over in self.overs():
            names = [over.mask]
            if over.mask == "logits" and any(term.all_heads for term in self.terms.values()):
                names += sorted(name for name in masks if name.startswith("logits."))
            counts.update({Over(over.unit, n): over.unit.count(masks[n]) for n in names if n in masks})
        return counts

    def combine(
        self, sums: Mapping[Part, Tensor], counts: Counts, progress: Progress
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The weighted total with its graph (None if no term is on), and each term's unweighted mean, detached.

        A count of 0 divides as 1: over nothing the sum is 0, and so is the mean.
        """
        total: Tensor | None = None
        means: dict[str, Tensor] = {}
        for part, value in sums.items():
            term = self.terms[part.term]
            mean = value / counts[self.over(part)].clamp_min(1).to(value)
            means[part.term] = means.get(part.term, 0) + mean.detach()
            if not term.monitored:
                weighted = term.weight(progress) * mean
                total = weighted if total is None else total + weighted
        return total, means


class TaskObjective(nn.Module):
    """One objective for each task; the same interface."""

    def __init__(self, by_task: Mapping[str, Objective]) -> None:
        super().__init__()
        self._by_task = dict(by_task)
        self.objectives = nn.ModuleList(self._by_task.values())  # by number: a task may have any name

    def for_task(self, task: str) -> Objective:
        """The objective of a task. Raises `PlanError` for a task that has none."""
        if task not in self._by_task:
            raise PlanError(f"no objective for task {task!r}; there are {', '.join(self._by_task)}")
        return self._by_task[task]

    def tasks(self) -> tuple[tuple[str, Objective], ...]:
        """Every (task, objective)."""
        return tuple(self._by_task.items())


def _heads(student: Features, teacher: Features) -> range:
    def count(features: Features) -> int:
        return sum(key.kind == "logits" and key.index is not None for key in features)

    counts = {count(student), count(teacher)} - {0}  # one side may give none, as where nobody teaches
    if len(counts) > 1:
        raise OutputError(f"the student gives {count(student)} logits heads, the teacher {count(teacher)}")
    return range(max(counts, default=1))


def _view(features: Features, head: int) -> Features:
    """The features as a loss for the first head sees another one: its logits, and its labels if there are any."""
    if head == 0:
        return features
    own = {LOGITS: Key("logits", head), LABELS: Key("labels", head)}
    others = {key: value for key, value in features.items() if key not in own}
    return {**others, **{name: features[key] for name, key in own.items() if key in features}}


def _view_masks(masks: Masks, head: int) -> Masks:
    return masks if head == 0 else {**masks, "logits": masks[logits_mask_name(head)]}


def _missing(needs: Needs, student: Features, teacher: Features) -> list[tuple[str, Key]]:
    """What is needed and was not given: whose, and what."""
    sides = ("student", needs.student - set(student)), ("teacher", needs.teacher - set(teacher))
    return [(side, key) for side, keys in sides for key in sorted(keys, key=str)]


def _named(missing: Iterable[tuple[str, Key]]) -> str:
    return ", ".join(f"the {side}'s {key}" for side, key in missing)
