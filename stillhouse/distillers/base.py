"""What the five distillers share: how ``train`` is called, and how its arguments reach the one training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from stillhouse import modes
from stillhouse.adaptors import Adaptor, FunctionAdaptor, ModuleOutputs
from stillhouse.batches import as_batch, batch_to_device
from stillhouse.config import DistillationConfig, TrainingConfig
from stillhouse.errors import PlanError
from stillhouse.plan import Distillation
from stillhouse.teachers import CachedTeacher, TeacherSource
from stillhouse.teachers.stores import MemoryStore
from stillhouse.terms import Matches
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
    TensorBoardSink,
    fit,
    resolve_device,
    resolve_precision,
)
from stillhouse.training.distributed import world_size
from stillhouse.training.late_groups import led_by
from stillhouse.training.randomness import seed_everything
from stillhouse.training.step import measure
from stillhouse.types import Progress

AnyAdaptor = Adaptor | Callable[[Any, Any], Mapping[str, Any]]


class Distiller:
    """What the five share. Use them as they are: what differs is a loss, a teacher source or a sink."""

    def __init__(self, train_config: TrainingConfig, plan: Distillation, teachers: Sequence[nn.Module],
                 matches: Sequence[Matches] = ()) -> None:
        self.t_config, self._matches = train_config, matches
        self.plan = plan
        self.model_S = plan.student
        self._teachers = teachers
        self._entered = ExitStack()

    def __init_subclass__(cls) -> None:
        if cls.__module__.rpartition(".")[0] != __name__.rpartition(".")[0]:
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
        self._warn_without_effect(num_steps, source.num_batches)
        if config.seed is not None:
            seed_everything(config.seed)
        device = resolve_device(config.device)
        for model in (*self._teachers, self.model_S):
            model.to(device)
        self._add_loss_parameters(optimizer)
        if scheduler_class is not None:
            if scheduler is not None:
                raise PlanError("give scheduler_class= (with scheduler_args=) or scheduler=, not both")
            scheduler = scheduler_class(optimizer=optimizer, **(scheduler_args or {}))
        elif scheduler is not None:
            scheduler = led_by(scheduler, optimizer)
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

    def _warn_without_effect(self, num_steps: int | None, batches: int | None) -> None:
        config = self.t_config
        if num_steps is None and config.ckpt_steps is not None:
            warnings.warn("ckpt_steps has no effect without num_steps; use ckpt_frequency, checkpoints an epoch",
                          stacklevel=4)
        for name in ("ckpt_frequency", "ckpt_epoch_frequency"):
            if num_steps is not None and getattr(config, name) != 1:
                warnings.warn(f"{name} has no effect with num_steps; use ckpt_steps", stacklevel=4)
        if num_steps is None and batches is None and config.ckpt_frequency != 1:
            warnings.warn("ckpt_frequency has no effect with a loader that has no length: checkpoints are saved at the "
                          "end of epochs only; give num_steps and ckpt_steps for more", stacklevel=4)
        if config.local_rank >= 0 and world_size() == 1:
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
        return [group for matches in self._matches for group in matches.parameter_groups]

    def _add_loss_parameters(self, optimizer: Optimizer) -> None:
        """Add to the user's optimizer what it lacks of the losses' parameters."""
        present = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for group in self._parameter_groups():
            unknown = set(group) - {"params"} - set(optimizer.defaults)
            if unknown:
                raise PlanError(f"proj: {type(optimizer).__name__} has no option {', '.join(sorted(unknown))}; known: "
                                f"{', '.join(optimizer.defaults)}")
            if not any(id(parameter) in present for parameter in group["params"]):
                optimizer.add_param_group(dict(group))


class LoaderDistiller(Distiller):
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
            scheduler: a ready-made scheduler instead. It does not know the projections, which join the optimizer after
                it was made: their learning rates rise and fall in proportion to the first group's.
            max_grad_norm: clip the norm of the gradient of everything trained; not above 0: do not clip.
            callback: ``callback(model=student, step=step)`` after each checkpoint. Metrics that it returns, by name or
                by task and name, are logged and part of the result.
            batch_postprocessor: applied to each batch before it is used.
            **args: passed to every forward of both models.
        """
        return self._fit(
            optimizer, LoaderSource(dataloader, batch_postprocessor), num_epochs=num_epochs, num_steps=num_steps,
            scheduler_class=scheduler_class, scheduler_args=scheduler_args, scheduler=scheduler,
            max_grad_norm=max_grad_norm, callback=callback, extra=args,
        )


def as_adaptor(given: AnyAdaptor, by_module: bool = False) -> Adaptor:
    """The adaptor behind what the user gave; ``by_module`` adds the outputs of modules that matches name."""
    adaptor = given if isinstance(given, Adaptor) else FunctionAdaptor(given)
    return ModuleOutputs(adaptor) if by_module else adaptor


def cached_if_asked(config: DistillationConfig, source: TeacherSource) -> TeacherSource:
    """The source, behind a cache in memory if the configuration asks for one."""
    if not config.is_caching_logits:
        return source
    store = MemoryStore()
    return source.map_leaves(lambda leaf: CachedTeacher(leaf, store))


def warn_ignored_caching(config: DistillationConfig, name: str) -> None:
    """Say that a distiller does not cache logits, if the configuration asks for it."""
    if config.is_caching_logits:
        warnings.warn(f"{name} does not cache logits, since it may need the teacher's layers in every batch; use "
                      "BasicDistiller, or a recipe, whose cache keeps layers too", stacklevel=3)
