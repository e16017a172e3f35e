"""Distillers with one teacher or none, on one task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import final

from torch import nn

from stillhouse.config import DistillationConfig, TrainingConfig
from stillhouse.distillers.base import (
    AnyAdaptor,
    LoaderDistiller,
    as_adaptor,
    cached_if_asked,
    warn_ignored_caching,
)
from stillhouse.losses import UserLosses
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.teachers import LiveTeacher, NoTeacher
from stillhouse.terms import HARD_LABEL_TERM, CustomMatch, Matches, logits_terms


@final
class BasicTrainer(LoaderDistiller):
    """Supervised training: minimises the sum of the adaptor's ``losses``, with the same loop and the same interface."""

    def __init__(self, train_config: TrainingConfig, model: nn.Module, adaptor: AnyAdaptor) -> None:
        objective = Objective([Term(HARD_LABEL_TERM, UserLosses())])
        super().__init__(train_config, Distillation(model, as_adaptor(adaptor), NoTeacher(), objective), ())
        self.model = model


@final
class BasicDistiller(LoaderDistiller):
    """One teacher, one task, logits and hard labels; no intermediate matches."""

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: nn.Module,
        model_S: nn.Module,
        adaptor_T: AnyAdaptor,
        adaptor_S: AnyAdaptor,
    ) -> None:
        if distill_config.intermediate_matches:
            warnings.warn("BasicDistiller ignores intermediate_matches: use GeneralDistiller", stacklevel=2)
        objective = Objective(logits_terms(distill_config))
        source = cached_if_asked(distill_config, LiveTeacher(model_T, as_adaptor(adaptor_T)))
        super().__init__(train_config, Distillation(model_S, as_adaptor(adaptor_S), source, objective), [model_T])
        self.d_config, self.model_T = distill_config, model_T


@final
class GeneralDistiller(LoaderDistiller):
    """One teacher, one task, with intermediate matches. The logits loss is left out if a side gives no logits.

    Args:
        custom_matches: losses between modules of the two models, made in code; ``intermediate_matches`` of the
            configuration name modules by their paths.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: nn.Module,
        model_S: nn.Module,
        adaptor_T: AnyAdaptor,
        adaptor_S: AnyAdaptor,
        custom_matches: Sequence[CustomMatch] | None = None,
    ) -> None:
        warn_ignored_caching(distill_config, "GeneralDistiller")
        matches = Matches(distill_config, model_S, custom_matches or (), model_T)
        objective = Objective([*logits_terms(distill_config, optional=True), *matches.terms])
        source = LiveTeacher(model_T, as_adaptor(adaptor_T, matches.by_module))
        plan = Distillation(model_S, as_adaptor(adaptor_S, matches.by_module), source, objective)
        super().__init__(train_config, plan, [model_T], [matches])
        self.d_config, self.model_T = distill_config, model_T
