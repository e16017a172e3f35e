"""The paper's front door: five distillers with one interface, replaceable by each other.

    with distiller:
        distiller.train(optimizer, dataloader, num_epochs=3, callback=evaluate)

Each composes a plan (student, adaptor, teacher source, objective) and hands it to the one training loop.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from stillhouse import modes
from stillhouse.adaptors import Adaptor, FunctionAdaptor
from stillhouse.batches import as_batch, batch_to_device
from stillhouse.config import DistillationConfig, TrainingConfig
from stillhouse.errors import PlanError
from stillhouse.losses import UserLosses
from stillhouse.objective import Objective, TaskObjective, Term
from stillhouse.plan import Distillation
from stillhouse.teachers import CachedTeacher, EnsembleTeacher, LiveTeacher, NoTeacher, RoutedTeacher, TeacherSource
from stillhouse.teachers.stores import MemoryStore
from stillhouse.terms import HARD_LABEL_TERM, Matches, logits_terms
from stillhouse.training import (
    BatchSource,
    Bundle,
    ConsoleSink,
    EverySteps,
    FitOptions,
    FitResult,
    LoaderSource,
    PerEpoch,
    Sink,
    TaskSource,
    TensorBoardSink,
    fit,
    resolve_device,
    resolve_precision,
)
from stillhouse.training.distributed import world_size
from stillhouse.training.randomness import seed_everything
from stillhouse.training.step import measure
from stillhouse.types import Progress

AnyAdaptor = Adaptor | Callable[[Any, Any], Mapping[str, Any]]


class Distiller:
    """What the five share. Use them as they are: what differs is a loss, a teacher source or a sink."""

    def __init__(self, train_config: TrainingConfig, plan: Distillation, teachers: Sequence[nn.Module]) -> None:
        self.t_config = train_config
        self.plan = plan
        self.model_S = plan.student
        self._teachers = teachers
        self._entered = ExitStack()

    def __init_subclass__(cls) -> None:
        if cls.__module__ != __name__:
            raise TypeError(f"{cls.__bases__[0].__name__} is final. To change what is computed, write a loss "
                            "(stillhouse.losses.Loss) or a teacher source (stillhouse.teachers.TeacherSource); "
                            "to watch training, a sink (stillhouse.training.Sink) or a callback")

    def __enter__(self) -> Self:
        """Teachers in eval mode, the student in train mode, until the end of the block."""
        self._entered.enter_context(modes.evaluation(*self._teachers))
        self._entered.enter_context(modes.training(self.model_S))
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.close()

    def train_on_batch(
        self, batch: Any, args: Mapping[str, Any] | None = None, task: str = "default"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss of one batch, with its graph, and the unweighted value of each part. Nothing is updated."""
        bundle = Bundle(self.plan, resolve_precision(self._precision(), modes.device_of(self.model_S)))
        on_device = batch_to_device(as_batch(batch, task), modes.device_of(self.model_S))
        return measure(self.plan, bundle, on_device, Progress(0, 1), args or {})

    def _fit(
        self,
        optimizer: Optimizer,
        source: BatchSource,
        *,
        num_epochs: float | None,
        num_steps: int | None,
        scheduler_class: Callable[..., Any] | None,
        scheduler_args: Mapping[str, Any] | None,
        scheduler: Any,
        max_grad_norm: float,
        callback: Callable[..., Any] | None,
        extra: Mapping[str, Any],
    ) -> FitResult:
        config = self.t_config
        if num_steps is not None:
            num_epochs = None
        elif num_epochs is None:
            raise PlanError("give num_epochs or num_steps")
        self._warn_without_effect(num_steps)
        if config.seed is not None:
            seed_everything(config.seed)
        device = resolve_device(config.device)
        for model in (*self._teachers, self.model_S):
            model.to(device)
        added = self._add_loss_parameters(optimizer)
        if scheduler is not None and added:
            raise PlanError("a ready-made scheduler does not know the projections that join the optimizer now; "
                            "give scheduler_class= and scheduler_args= instead of scheduler=")
        if scheduler_class is not None:
            scheduler = scheduler_class(optimizer=optimizer, **(scheduler_args or {}))
        batches = source.num_batches
        steps = None if batches is None else math.ceil(batches / config.gradient_accumulation_steps)
        per_epoch = PerEpoch(config.ckpt_frequency, config.ckpt_epoch_frequency, steps, num_epochs or 0)
        options = FitOptions(
            num_epochs=num_epochs,
            num_steps=num_steps,
            accumulation=config.gradient_accumulation_steps,
            max_grad_norm=max_grad_norm if max_grad_norm > 0 else None,
            precision=resolve_precision(self._precision(), device),
            device=device,
            output_dir=None if config.output_dir is None else Path(config.output_dir),
            save=per_epoch if num_steps is None else EverySteps(config.ckpt_steps),
            resume=config.resume,
            log_every=config.log_every,
            extra=extra,
            sinks=self._sinks(),
            callback=callback,
        )
        return fit(self.plan, source, optimizer, options, scheduler)

    def _warn_without_effect(self, num_steps: int | None) -> None:
        if num_steps is None and self.t_config.ckpt_steps is not None:
            warnings.warn("ckpt_steps has no effect without num_steps; use ckpt_frequency, checkpoints an epoch",
                          stacklevel=4)
        if self.t_config.local_rank >= 0 and world_size() == 1:
            warnings.warn("local_rank has no effect: there is one process; start with torchrun or accelerate launch",
                          stacklevel=4)

    def _precision(self) -> Any:
        return "fp16" if self.t_config.fp16 else self.t_config.precision

    def _sinks(self) -> list[Sink]:
        sinks: list[Sink] = [ConsoleSink(type(self).__name__)]
        if self.t_config.log_dir is not None:
            sinks.append(TensorBoardSink(self.t_config.log_dir))
        return sinks

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the losses' parameters."""
        return []

    def _add_loss_parameters(self, optimizer: Optimizer) -> bool:
        """Add to the user's optimizer what it lacks of the losses' parameters. Whether anything was added."""
        present = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        added = False
        for group in self._parameter_groups():
            if not any(id(parameter) in present for parameter in group["params"]):
                optimizer.add_param_group(group)
                added = True
        return added


class _LoaderDistiller(Distiller):
    """A distiller that trains on one loader."""

    def train(
        self,
        optimizer: Optimizer,
        dataloader: Iterable[Any],
        num_epochs: float | None = None,
        scheduler_class: Callable[..., Any] | None = None,
        scheduler_args: Mapping[str, Any] | None = None,
        scheduler: Any = None,
        max_grad_norm: float = -1.0,
        num_steps: int | None = None,
        callback: Callable[..., Any] | None = None,
        batch_postprocessor: Callable[[Any], Any] | None = None,
        **args: Any,
    ) -> FitResult:
        """Train the student.

        Args:
            optimizer: over the student's parameters; parameters of projections are added to it.
            dataloader: gives batches: tuples or lists (passed in order), mappings (passed by name), or
                ``{"teacher": .., "student": ..}`` with one of these for each side.
            num_epochs: passes over the data; or
            num_steps: optimizer steps, over as many passes as it takes (wins over num_epochs).
            scheduler_class: called as ``scheduler_class(optimizer=optimizer, **scheduler_args)``, after the projections
                joined; stepped after every optimizer step.
            scheduler_args: its arguments.
            scheduler: a ready-made scheduler instead.
            max_grad_norm: clip the norm of the gradient of everything trained; not above 0: do not clip.
            callback: ``callback(model=student, step=step)`` after each checkpoint.
            batch_postprocessor: applied to each batch before it is used.
            **args: passed to every forward of both models.
        """
        return self._fit(
            optimizer, LoaderSource(dataloader, batch_postprocessor), num_epochs=num_epochs, num_steps=num_steps,
            scheduler_class=scheduler_class, scheduler_args=scheduler_args, scheduler=scheduler,
            max_grad_norm=max_grad_norm, callback=callback, extra=args,
        )


@final
class BasicTrainer(_LoaderDistiller):
    """Supervised training: minimises the sum of the adaptor's ``losses``, with the same loop and the same interface."""

    def __init__(self, train_config: TrainingConfig, model: nn.Module, adaptor: AnyAdaptor) -> None:
        objective = Objective([Term(HARD_LABEL_TERM, UserLosses())])
        super().__init__(train_config, Distillation(model, _adaptor(adaptor), NoTeacher(), objective), ())
        self.model = model


@final
class BasicDistiller(_LoaderDistiller):
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
        _warn_ignored_matches(distill_config, "BasicDistiller", "use GeneralDistiller")
        objective = Objective(logits_terms(distill_config))
        source = _cached(distill_config, LiveTeacher(model_T, _adaptor(adaptor_T)))
        super().__init__(train_config, Distillation(model_S, _adaptor(adaptor_S), source, objective), [model_T])
        self.d_config, self.model_T = distill_config, model_T


@final
class GeneralDistiller(_LoaderDistiller):
    """One teacher, one task, with intermediate matches. The logits loss is left out if a side gives no logits."""

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: nn.Module,
        model_S: nn.Module,
        adaptor_T: AnyAdaptor,
        adaptor_S: AnyAdaptor,
    ) -> None:
        _warn_ignored_caching(distill_config, "GeneralDistiller")
        matches = Matches(distill_config, model_S)
        objective = Objective([*logits_terms(distill_config, optional=True), *matches.terms])
        source = LiveTeacher(model_T, _adaptor(adaptor_T))
        super().__init__(train_config, Distillation(model_S, _adaptor(adaptor_S), source, objective), [model_T])
        self.d_config, self.model_T, self._matches = distill_config, model_T, matches

    def _parameter_groups(self) -> list[dict[str, Any]]:
        return self._matches.parameter_groups


@final
class MultiTeacherDistiller(_LoaderDistiller):
    """Several teachers of one task; the student learns from the mean of their logits."""

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: Sequence[nn.Module],
        model_S: nn.Module,
        adaptor_T: AnyAdaptor | Sequence[AnyAdaptor],
        adaptor_S: AnyAdaptor,
    ) -> None:
        adaptors = list(adaptor_T) if isinstance(adaptor_T, Sequence) else [adaptor_T] * len(model_T)
        if len(adaptors) != len(model_T):
            raise PlanError(f"{len(model_T)} teachers, but {len(adaptors)} adaptors; give one for all, or one for each")
        _warn_ignored_matches(distill_config, "MultiTeacherDistiller",
                              "layers of different teachers have no common meaning; drop them")
        ensemble = EnsembleTeacher([LiveTeacher(m, _adaptor(a)) for m, a in zip(model_T, adaptors, strict=True)])
        objective = Objective(logits_terms(distill_config))
        source = _cached(distill_config, ensemble)
        super().__init__(train_config, Distillation(model_S, _adaptor(adaptor_S), source, objective), list(model_T))
        self.d_config, self.model_T = distill_config, model_T


@final
class MultiTaskDistiller(Distiller):
    """A teacher and an adaptor for each task, one student for all."""

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: Mapping[str, nn.Module],
        model_S: nn.Module,
        adaptor_T: Mapping[str, AnyAdaptor],
        adaptor_S: Mapping[str, AnyAdaptor],
    ) -> None:
        tasks = set(model_T)
        if set(adaptor_T) != tasks or set(adaptor_S) != tasks:
            raise PlanError(f"teachers are given for {sorted(tasks)}, teacher adaptors for {sorted(adaptor_T)}, "
                            f"student adaptors for {sorted(adaptor_S)}; they must name the same tasks")
        _warn_ignored_caching(distill_config, "MultiTaskDistiller")
        matches = Matches(distill_config, model_S)
        shared = Objective([*logits_terms(distill_config, optional=True), *matches.terms])
        teacher = RoutedTeacher({task: LiveTeacher(model_T[task], _adaptor(adaptor_T[task])) for task in model_T})
        adaptors = {task: _adaptor(adaptor_S[task]) for task in model_T}
        plan = Distillation(model_S, adaptors, teacher, TaskObjective(dict.fromkeys(model_T, shared)))
        super().__init__(train_config, plan, list(model_T.values()))
        self.d_config, self.model_T, self._matches = distill_config, model_T, matches

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
        """Train the student; see `BasicDistiller.train`. A task is drawn for each micro-batch, p ~ batches ** tau."""
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

    def _parameter_groups(self) -> list[dict[str, Any]]:
        return self._matches.parameter_groups


Distillers: dict[str, type[Distiller]] = {
    "Basic": BasicDistiller, "General": GeneralDistiller, "MultiTeacher": MultiTeacherDistiller,
    "MultiTask": MultiTaskDistiller, "Train": BasicTrainer,
}


def _adaptor(given: AnyAdaptor) -> Adaptor:
    return given if isinstance(given, Adaptor) else FunctionAdaptor(given)


def _cached(config: DistillationConfig, source: TeacherSource) -> TeacherSource:
    if not config.is_caching_logits:
        return source
    store = MemoryStore()
    return source.map_leaves(lambda leaf: CachedTeacher(leaf, store))


def _warn_ignored_matches(config: DistillationConfig, name: str, remedy: str) -> None:
    if config.intermediate_matches:
        warnings.warn(f"{name} ignores intermediate_matches: {remedy}", stacklevel=3)


def _warn_ignored_caching(config: DistillationConfig, name: str) -> None:
    if config.is_caching_logits:
        warnings.warn(f"{name} does not cache logits, since it may need the teacher's layers in every batch; use "
                      "BasicDistiller, or a recipe, whose cache keeps layers too", stacklevel=3)
