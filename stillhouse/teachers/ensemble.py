"""Several teachers as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import torch

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses.base import upcast
from stillhouse.teachers.base import TeacherSource
from stillhouse.types import Batch, Features, Key


@final
class EnsembleTeacher(TeacherSource):
    """The average of several teachers' logits, or the logarithm of the average of their probabilities.

    Args:
        sources: the teachers; all must predict the same classes.
        weights: one for each, brought to a sum of 1; equal without.
        average: ``"logits"`` as in the paper's toolkit, or ``"probabilities"``.
    """

    def __init__(
        self,
        sources: Sequence[TeacherSource],
        weights: Sequence[float] | None = None,
        average: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        if not sources:
            raise PlanError("an ensemble needs at least one teacher")
        weights = [1.0] * len(sources) if weights is None else list(weights)
        if len(weights) != len(sources) or min(weights) < 0 or sum(weights) <= 0:
            raise PlanError(f"ensemble weights {weights}: give {len(sources)} numbers, none negative, not all 0")
        self.sources = tuple(sources)
        self.weights = tuple(weight / sum(weights) for weight in weights)
        self.average = average

    @property
    def fingerprint(self) -> str | None:
        parts = [source.fingerprint for source in self.sources]
        if None in parts:
            return None
        return f"ensemble({self.average}; {', '.join(f'{w} {p}' for w, p in zip(self.weights, parts, strict=True))})"

    @property
    def rows_forwarded(self) -> int:
        return sum(source.rows_forwarded for source in self.sources)

    def check(self, keys: frozenset[Key]) -> None:
        others = sorted(str(key) for key in keys if key.kind != "logits")
        if others:
            raise PlanError(f"an ensemble of teachers averages logits and cannot give {', '.join(others)}: "
                            "layers of different models have no common meaning; drop the intermediate matches, "
                            "or distil from a single teacher")
        for source in self.sources:
            source.check(keys)
        widths = {source.width(Key("logits", 0)) for source in self.sources} - {None}
        if len(widths) > 1:
            raise PlanError("the teachers of an ensemble predict different numbers of labels: "
                            f"{sorted(widths, key=str)}; they must predict the same classes in the same order")

    def width(self, key: Key) -> int | None:
        return self.sources[0].width(key)

    def map_leaves(self, wrap: Callable[[TeacherSource], TeacherSource]) -> TeacherSource:
        return EnsembleTeacher([s.map_leaves(wrap) for s in self.sources], self.weights, self.average)

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        answers = [source.signals(batch, keys, extra) for source in self.sources]
        heads = [{key for key in answer if key.kind == "logits"} for answer in answers]
        if any(keys != heads[0] for keys in heads):
            raise OutputError("the teachers of an ensemble give different numbers of logits heads")
        return {key: self._mean(torch.stack([upcast(answer[key]) for answer in answers])) for key in heads[0]}

    def _mean(self, logits: torch.Tensor) -> torch.Tensor:
        weights = torch.tensor(self.weights, dtype=logits.dtype, device=logits.device)
        weights = weights.reshape(-1, *[1] * (logits.dim() - 1))
        if self.average == "logits":
            return (weights * logits).sum(dim=0)
        return (weights.log() + logits.log_softmax(dim=-1)).logsumexp(dim=0)
