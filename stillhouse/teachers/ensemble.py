"""Several teachers as one."""

from __future__ import annotations

import dataclasses
import math
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

    Anything else, such as hidden states, is that of one of them: layers of different models have no common meaning.

    Args:
        sources: the teachers; all must predict the same classes.
        weights: one for each, brought to a sum of 1; equal without.
        average: ``"logits"`` as in the paper's toolkit, or ``"probabilities"``.
        layers_from: the number, from 0, of the teacher whose layers are given; without it there are none.
    """

    def __init__(
        self,
        sources: Sequence[TeacherSource],
        weights: Sequence[float] | None = None,
        average: Literal["logits", "probabilities"] = "logits",
        layers_from: int | None = None,
    ) -> None:
        if not sources:
            raise PlanError("an ensemble needs at least one teacher")
        weights = [1.0] * len(sources) if weights is None else list(weights)
        if len(weights) != len(sources) or not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
            raise PlanError(f"ensemble weights {weights}: give {len(sources)} numbers, none negative, not all 0")
        if average not in ("logits", "probabilities"):
            raise PlanError(f"average={average!r}: an ensemble averages 'logits' or 'probabilities'")
        if layers_from is not None and not 0 <= layers_from < len(sources):
            raise PlanError(f"layers are asked for of teacher {layers_from}, and there are {len(sources)}: "
                            f"0 to {len(sources) - 1}")
        self.sources = tuple(sources)
        self.weights = tuple(weight / sum(weights) for weight in weights)
        self.average, self.layers_from = average, layers_from

    @property
    def fingerprint(self) -> str | None:
        parts = [source.fingerprint for source in self.sources]
        if None in parts:
            return None
        members = ", ".join(f"{w} {p}" for w, p in zip(self.weights, parts, strict=True))
        layers = "" if self.layers_from is None else f"; layers of {self.layers_from}"
        return f"ensemble({self.average}; {members}{layers})"

    @property
    def rows_forwarded(self) -> int:
        return sum(source.rows_forwarded for source in self.sources)

    def check(self, keys: frozenset[Key]) -> None:
        logits = frozenset(key for key in keys if key.kind == "logits")
        others = sorted(str(key) for key in keys - logits)
        if others and self.layers_from is None:
            raise PlanError(f"an ensemble of teachers averages logits and cannot give {', '.join(others)}: "
                            "layers of different models have no common meaning; say whose layers to take "
                            "(layers_from=0, in MultiTeacherDistiller match_teacher=0, in a recipe "
                            "teacher.match_teacher: 0), or drop the matches")
        for number, source in enumerate(self.sources):
            source.check(keys if number == self.layers_from else logits)
        widths = {source.width(Key("logits", 0)) for source in self.sources} - {None}
        if len(widths) > 1:
            raise PlanError("the teachers of an ensemble predict different numbers of labels: "
                            f"{sorted(widths, key=str)}; they must predict the same classes in the same order")

    def width(self, key: Key) -> int | None:
        return self.sources[0 if key.kind == "logits" else self.layers_from or 0].width(key)

    def map_leaves(self, wrap: Callable[[TeacherSource], TeacherSource]) -> TeacherSource:
        return EnsembleTeacher([s.map_leaves(wrap) for s in self.sources], self.weights, self.average,
                               self.layers_from)

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        return self._joined([source.signals(own, own_keys, extra)
                             for source, own, own_keys in self._questions(batch, keys)])

    def lookup(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features | None:
        answers = []
        for source, own, own_keys in self._questions(batch, keys):
            answer = source.lookup(own, own_keys, extra) if own_keys else {}
            if answer is None:
                return None
            answers.append(answer)
        return self._joined(answers)

    def flush(self) -> None:
        for source in self.sources:
            source.flush()

    def _questions(self, batch: Batch, keys: frozenset[Key]) -> list[tuple[TeacherSource, Batch, frozenset[Key]]]:
        """Each teacher, the batch as it sees it, and what it is asked for."""
        logits = frozenset(key for key in keys if key.kind == "logits")
        return [(source, own, keys if number == self.layers_from else logits)
                for number, (source, own) in enumerate(zip(self.sources, self._batches(batch), strict=True))]

    def _joined(self, answers: Sequence[Features]) -> Features:
        heads = [{key for key in answer if key.kind == "logits"} for answer in answers]
        if any(found != heads[0] for found in heads):
            raise OutputError("the teachers of an ensemble give different numbers of logits heads")
        for key in heads[0]:
            shapes = [tuple(answer[key].shape) for answer in answers]
            if len(set(shapes)) > 1:
                raise OutputError(f"the teachers of an ensemble give {key} of shapes {', '.join(map(str, shapes))}; "
                                  "they must predict the same classes of the same rows and positions")
        means = {key: self._mean([upcast(answer[key]) for answer in answers]) for key in heads[0]}
        layers = {} if self.layers_from is None else answers[self.layers_from]
        return {**{key: value for key, value in layers.items() if key.kind != "logits"}, **means}

    def _batches(self, batch: Batch) -> list[Batch]:
        """The batch as each teacher sees it: of ready-made outputs, its own."""
        outputs = batch.teacher_outputs
        if outputs is None:
            return [batch] * len(self.sources)
        if not isinstance(outputs, (list, tuple)) or len(outputs) != len(self.sources):
            raise OutputError(f"an ensemble of {len(self.sources)} teachers takes a list of as many ready-made "
                              f"outputs, one for each, not {type(outputs).__name__}")
        return [dataclasses.replace(batch, teacher_outputs=own) for own in outputs]

    def _mean(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        # Weights are numbers: as tensors they would make every step wait until they are on the device.
        counts = [(weight, own) for weight, own in zip(self.weights, logits, strict=True) if weight]  # 0 * -inf is NaN
        if self.average == "logits":
            return torch.stack([weight * own for weight, own in counts]).sum(dim=0)
        return torch.stack([math.log(weight) + own.log_softmax(dim=-1) for weight, own in counts]).logsumexp(dim=0)
