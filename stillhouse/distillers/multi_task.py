"""A distiller with a teacher for each of several tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from torch import nn
from torch.optim import Optimizer

from stillhouse.config import DistillationConfig, TrainingConfig
from stillhouse.distillers.base import AnyAdaptor, Distiller, as_adaptor, warn_ignored_caching
from stillhouse.errors import PlanError
from stillhouse.objective import Objective, TaskObjective
from stillhouse.plan import Distillation
from stillhouse.teachers import LiveTeacher, RoutedTeacher
from stillhouse.terms import Matches, logits_terms
from stillhouse.training import FitResult, TaskSource
from stillhouse.training.randomness import seed_everything


@final
class MultiTaskDistiller(Distiller):
    """A teacher and an adaptor for each task, one student for all.

    Args:
        distill_config: one for all tasks, which then share the projections too, or one for each task by name.
        model_T: the teachers by task.
        adaptor_T: their adaptors by task.
        adaptor_S: the student's adaptors by task.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig | Mapping[str, DistillationConfig],
        model_T: Mapping[str, nn.Module],
        model_S: nn.Module,
        adaptor_T: Mapping[str, AnyAdaptor],
        adaptor_S: Mapping[str, AnyAdaptor],
    ) -> None:
        configs = dict.fromkeys(model_T, distill_config) if isinstance(distill_config, DistillationConfig) else (
            distill_config)
        for what, given in (("configurations", configs), ("teacher adaptors", adaptor_T),
                            ("student adaptors", adaptor_S)):
            if set(given) != set(model_T):
                raise PlanError(f"teachers are given for {sorted(model_T)}, {what} for {sorted(given)}; they must name "
                                "the same tasks")
        matches: dict[int, Matches] = {}
        objectives: dict[int, Objective] = {}
        for config in configs.values():
            if id(config) not in matches:
                warn_ignored_caching(config, "MultiTaskDistiller")
                own = Matches(config, model_S)
                matches[id(config)] = own
                objectives[id(config)] = Objective([*logits_terms(config, optional=True), *own.terms])
        by_module = {task: matches[id(config)].by_module for task, config in configs.items()}
        teacher = RoutedTeacher({task: LiveTeacher(model, as_adaptor(adaptor_T[task], by_module[task]))
                                 for task, model in model_T.items()})
        adaptors = {task: as_adaptor(adaptor_S[task], by_module[task]) for task in model_T}
        objective = TaskObjective({task: objectives[id(configs[task])] for task in model_T})
        super().__init__(train_config, Distillation(model_S, adaptors, teacher, objective), list(model_T.values()),
                         list(matches.values()))
        self.d_config, self.model_T = distill_config, model_T

    def train(
        self,
        optimizer: Optimizer,
        dataloaders: Mapping[str, Iterable[Any]],
        num_steps: int,
        scheduler_class: Callable[..., Any] | None = None,
        scheduler_args: Mapping[str, Any] | None = None,
        scheduler: Any = None,
        max_grad_norm: float = -1.0,
        tau: float = 1,
        callback: Callable[..., Any] | None = None,
        batch_postprocessors: Mapping[str, Callable[[Any], Any]] | None = None,
        **args: Any,
    ) -> FitResult:
        """Train the student; see `BasicDistiller.train`.

        A task is drawn for each micro-batch, with a probability that grows with the number of its batches to the power
        of ``tau``: 1 goes by size, 0 takes all alike. The draws come from numpy's global random state, are the same on
        every rank, and go on after a resume. A ``callback`` that returns ``{task: {metric: value}}`` has them logged as
        ``task/metric``.
        """
        unknown = set(batch_postprocessors or {}) - set(self.model_T)
        if unknown:
            raise PlanError(f"batch_postprocessors are given for {sorted(unknown)}, and teachers for "
                            f"{sorted(self.model_T)}")
        if set(dataloaders) != set(self.model_T):
            raise PlanError(f"loaders are given for {sorted(dataloaders)}, teachers for {sorted(self.model_T)}; "
                            "they must name the same tasks")
        if self.t_config.seed is not None:
            seed_everything(self.t_config.seed)
        return self._fit(
            optimizer, TaskSource(dataloaders, tau, batch_postprocessors), num_epochs=None, num_steps=num_steps,
            scheduler_class=scheduler_class, scheduler_args=scheduler_args, scheduler=scheduler,
            max_grad_norm=max_grad_norm, callback=callback, extra=args,
        )
