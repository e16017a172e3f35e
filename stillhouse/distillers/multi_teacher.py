"""A distiller with several teachers of one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from torch import nn

from stillhouse.config import DistillationConfig, TrainingConfig
from stillhouse.distillers.base import AnyAdaptor, LoaderDistiller, as_adaptor, cached_if_asked
from stillhouse.errors import PlanError
from stillhouse.objective import Objective
from stillhouse.plan import Distillation
from stillhouse.teachers import EnsembleTeacher, LiveTeacher
from stillhouse.terms import Matches, logits_terms


@final
class MultiTeacherDistiller(LoaderDistiller):
    """Several teachers of one task; the student learns from the mean of their answers.

    Args:
        model_T: the teachers.
        adaptor_T: one for all of them, or a list with one for each.
        teacher_weights: how much each teacher counts in the mean; brought to a sum of 1, equal without.
        average: the mean of their ``logits``, as in the paper, or of their ``probabilities`` (its logarithm then takes
            the logits' place, and the temperature divides that).
        match_teacher: which teacher's layers ``intermediate_matches`` are with, counted from 0. Layers of different
            models have no common mean, so this must be chosen if there are matches.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: Sequence[nn.Module],
        model_S: nn.Module,
        adaptor_T: AnyAdaptor | Sequence[AnyAdaptor],
        adaptor_S: AnyAdaptor,
        *,
        teacher_weights: Sequence[float] | None = None,
        average: Literal["logits", "probabilities"] = "logits",
        match_teacher: int | None = None,
    ) -> None:
        adaptors = list(adaptor_T) if isinstance(adaptor_T, Sequence) else [adaptor_T] * len(model_T)
        if len(adaptors) != len(model_T):
            raise PlanError(f"{len(model_T)} teachers, but {len(adaptors)} adaptors; give one for all, or one for each")
        if distill_config.intermediate_matches and match_teacher is None:
            raise PlanError("intermediate_matches compare layers with those of one teacher, and there are "
                            f"{len(model_T)}; say which one with match_teacher=0 to {len(model_T) - 1}, or drop them")
        matches = Matches(distill_config, model_S)
        ensemble = EnsembleTeacher(
            [LiveTeacher(m, as_adaptor(a, matches.by_module)) for m, a in zip(model_T, adaptors, strict=True)],
            teacher_weights, average, layers_from=match_teacher,
        )
        objective = Objective([*logits_terms(distill_config), *matches.terms])
        plan = Distillation(model_S, as_adaptor(adaptor_S, matches.by_module),
                            cached_if_asked(distill_config, ensemble), objective)
        super().__init__(train_config, plan, list(model_T), [matches])
        self.d_config, self.model_T = distill_config, model_T
