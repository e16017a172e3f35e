"""A `transformers.Trainer` whose student learns from a teacher.

Nothing else of the house overrides what somebody else wrote. `transformers.Trainer` is made to be subclassed, and this
class keeps to its hooks: what a batch costs (``compute_loss``), the batches of an optimizer step
(``get_batch_samples``), the optimizer, saving, logging, the columns that are kept. The loop, evaluation and everything
else stay the Trainer's.
"""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from stillhouse.batches import as_batch, batch_to_device
from stillhouse.config import DistillationConfig
from stillhouse.errors import CheckpointError, PlanError
from stillhouse.plan import Distillation
from stillhouse.trainer_bridge.learning import Learned, Said, learned
from stillhouse.trainer_bridge.ranks import average_gradients, call_through, take_from_first_rank
from stillhouse.trainer_bridge.refusals import require_supported, require_used, require_version
from stillhouse.trainer_bridge.teaching import AnyAdaptor, adaptor_of, cached, models_of, source_of
from stillhouse.training import Bundle, Precision, WindowLoss
from stillhouse.training.distributed import wait_for_all
from stillhouse.training.late_groups import led_by
from stillhouse.training.packing import load_tensors, save_tensors
from stillhouse.training.recorder import means_of
from stillhouse.training.step import StepResult
from stillhouse.types import BESIDE_INPUTS, Progress

LOSSES_FILE = "distillation.safetensors"
"""Beside the student in a checkpoint: the losses' parameters, such as projections. In no model that is exported."""


@final
class DistillationTrainer(Trainer):
    """`transformers.Trainer` with a teacher: the same arguments, loop, callbacks and checkpoints, our losses.

    Each sum is divided once, by the count over all batches of the optimizer step and all processes, so that the
    gradient does not depend on ``per_device_train_batch_size``, ``gradient_accumulation_steps`` or the number of
    processes.

    * The teacher runs in eval mode without a graph, and is neither trained nor saved. A batch may be
      ``{"student": {..}, "teacher": {..}}`` where the two read different tokens (with ``remove_unused_columns=False``
      and a collator that makes such batches); otherwise both read the same batch, each what its forward accepts.
    * Projections are trained and clipped with the student, are kept in checkpoints, and are in no exported model.
    * Each term is logged as ``loss/NAME``, its unweighted mean over the steps since the last log.
    * Evaluation and prediction are the Trainer's, on the student alone: ``eval_loss`` is the student's own loss with
      the labels, as without a teacher, so that models are chosen by what they are for and no teacher is asked.

    Args:
        model: the student; not ``model_init``.
        args: the training arguments. One GPU a process; no FSDP, DeepSpeed or ``torch_compile``.
        *trainer_arguments: as in `transformers.Trainer`, in its order.
        distillation: what is learned. A dictionary like the section ``distillation`` of a recipe, a
            `DistillationConfig`, or an `Objective` for one task.
        teacher: a model, a `TeacherSource`, a list of these (their logits are averaged), or None where labels alone
            teach.
        adaptor: reads the student's outputs; `HuggingFaceAdaptor.for_model` without.
        teacher_adaptor: reads the teacher's outputs, of each teacher of a list.
        cache: keeps the teacher's answers row by row: ``off``, ``memory``, or a folder, from which later trainings are
            answered too.
        cache_dtype: the floating-point type they are kept in; without, the teacher's own.
        **trainer_options: as in `transformers.Trainer`.

    Raises:
        PlanError: for parts that do not fit together, before anything is trained.
        ConfigError: for a value in ``distillation`` that is unknown or out of range.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *trainer_arguments: Any,
        distillation: Said,
        teacher: Any = None,
        adaptor: AnyAdaptor | None = None,
        teacher_adaptor: AnyAdaptor | None = None,
        cache: str | Path = "off",
        cache_dtype: torch.dtype | None = None,
        **trainer_options: Any,
    ) -> None:
        require_version()
        super().__init__(model, args, *trainer_arguments, **trainer_options)
        require_supported(self)
        device, student = self.args.device, self.model
        assert student is not None
        precision = Precision({"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision))
        own_adaptor = adaptor_of(adaptor, student, by_module=False)
        teachers = models_of(teacher)
        self._learned: Learned = learned(distillation, student, own_adaptor, teachers)
        by_module = self._learned.by_module
        source = source_of(teacher, teacher_adaptor, device=device, autocast_dtype=precision.autocast_dtype,
                           by_module=by_module)
        if cache == "off" and isinstance(distillation, DistillationConfig) and distillation.is_caching_logits:
            cache = "memory"
        require_used(teacher, teacher_adaptor, cache, cache_dtype)
        self.plan = Distillation(student, adaptor_of(own_adaptor, student, by_module),
                                 cached(source, cache, cache_dtype), self._learned.objective)
        """The experiment as one value."""
        self.bundle = Bundle(self.plan, precision)
        """The student, and the losses with their parameters."""
        self.bundle.objective.to(device)
        self._beside = _columns_beside(student, teachers, self.label_names)
        self._wrapped: nn.Module = student
        self._window: WindowLoss | None = None
        self._num_left = 0  # micro-batches of the window whose loss was not yet asked for
        self._unlogged: list[StepResult] = []
        self.accelerator.clip_grad_norm_ = partial(_clip_with, self.accelerator.clip_grad_norm_, self._loss_parameters)
        self.add_callback(_Hooks(self))

    # One optimizer step.

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of one optimizer step, and the Trainer's number of items; what losses are divided by is counted.

        That number counts labels alone. Losses are sums over rows, tokens, pairs of tokens or labels, each under its
        own mask, and each kind is counted over these batches on all processes.
        """
        samples, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples:
            self._window, self._num_left = self._losses_of(samples), len(samples)
            self.bundle.objective.zero_grad(set_to_none=True)  # the Trainer does it for the student alone
            if self.args.logging_strategy != "no":
                self._unlogged.append(self._window.result)
        return samples, num_items

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        """In training a batch's share of the step's loss, with the terms as outputs; else the student's own loss.

        The share is divided by the counts of the whole step already: ``num_items_in_batch``, the count of the labels
        alone, is one of these. A batch that is no part of a step of the loop counts as a step of its own.
        """
        if not model.training:
            return super().compute_loss(model, self._students(inputs), return_outputs, num_items_in_batch)
        if self._num_left == 0:
            self._window, self._num_left = self._losses_of([inputs]), 1
        assert self._window is not None
        self._num_left -= 1
        if not self._learned.objective.trains(self._progress()):
            loss = torch.zeros((), device=self.args.device, requires_grad=True)
        else:
            self._wrapped = model
            loss = self._window.of(batch_to_device(as_batch(inputs), self.args.device))
        return (loss, self._window.result.parts) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """The Trainer's, after which gradients of the losses' parameters are averaged over processes too."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            progress = self._progress()
            average_gradients(parameter for term in self._learned.objective.terms.values()
                              if term.active(progress) and not term.monitored
                              for parameter in term.loss.parameters() if parameter.requires_grad)
        return loss

    def _losses_of(self, samples: list[Any]) -> WindowLoss:
        window = [as_batch(sample) for sample in samples]
        if not self.plan.declares_masks:  # the student will be asked what counts
            window = [batch_to_device(batch, self.args.device) for batch in window]
        return WindowLoss(self.plan, self.bundle, window, self._progress(), model=self._call)

    def _call(self, *args: Any) -> Any:
        return call_through(self._wrapped, self.bundle.student, self.bundle, *args)

    def _progress(self) -> Progress:
        return Progress(self.state.global_step, self.state.max_steps, int(self.state.epoch or 0))

    # The losses' parameters: trained, kept, and brought back.

    def _loss_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.bundle.objective.parameters() if parameter.requires_grad]

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """The Trainer's optimizer, or the user's, with the losses' parameters added to it if they are missing."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **options)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for options, parameters in self._loss_groups(optimizer):
            lacking = [parameter for parameter in parameters if id(parameter) not in held]
            if lacking:
                optimizer.add_param_group({"params": lacking, **options})
        if self.lr_scheduler is not None:
            self.lr_scheduler = led_by(self.lr_scheduler, optimizer)
        return optimizer

    def _loss_groups(self, optimizer: torch.optim.Optimizer) -> list[tuple[dict[str, Any], list[nn.Parameter]]]:
        """The losses' parameters by their options; those decay that would decay in the student."""
        given: dict[int, dict[str, Any]] = {}
        for group in self._learned.parameter_groups:
            options = {name: value for name, value in group.items() if name != "params"}
            unknown = set(options) - set(optimizer.defaults)
            if unknown:
                raise PlanError(f"proj: {type(optimizer).__name__} has no option {', '.join(sorted(unknown))}; known: "
                                f"{', '.join(optimizer.defaults)}")
            given |= {id(parameter): options for parameter in group["params"]}
        objective = self.bundle.objective
        decaying = set(self.get_decay_parameter_names(objective))
        groups: list[tuple[dict[str, Any], list[nn.Parameter]]] = []
        for name, parameter in objective.named_parameters():
            if not parameter.requires_grad:
                continue
            usual = {"weight_decay": self.args.weight_decay if name in decaying else 0.0}
            options = {**(usual if "weight_decay" in optimizer.defaults else {}), **given.get(id(parameter), {})}
            same = next((parameters for known, parameters in groups if known == options), None)
            if same is None:
                groups.append((options, [parameter]))
            else:
                same.append(parameter)
        return groups

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The student alone; in a checkpoint also what the losses learned, and before that the teacher's answers."""
        if _internal_call:
            self.plan.teacher.flush()
        super().save_model(output_dir, _internal_call)
        state = self.bundle.objective.state_dict()
        if _internal_call and output_dir is not None and self.args.should_save and state:  # else it is for the hub
            save_tensors(state, Path(output_dir) / LOSSES_FILE)

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        """The Trainer's. Going on from a checkpoint brings the losses' parameters back; raises `CheckpointError`."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        if folder:
            self._load_losses(Path(folder))
        take_from_first_rank(self.bundle.objective)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _load_losses(self, folder: Path) -> None:
        objective = self.bundle.objective
        if not objective.state_dict():
            return
        if not (folder / LOSSES_FILE).exists():
            raise CheckpointError(f"{folder} holds no {LOSSES_FILE}, so it is not of this trainer: the losses have "
                                  f"parameters ({', '.join(objective.state_dict())}) that training goes on with; start "
                                  "afresh, or go on from a checkpoint of the same distillation")
        try:
            objective.load_state_dict(load_tensors(folder / LOSSES_FILE))
        except RuntimeError as error:
            raise CheckpointError(f"{folder} is of another distillation: {error}") from error

    # What is logged, and what reaches whom.

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's, with the terms' means beside the loss."""
        if "loss" in logs and self._unlogged:
            _, terms = means_of(self._unlogged)
            logs = {**logs, **{f"loss/{name}": value for name, value in terms.items()}}
            self._unlogged = []
        super().log(logs, start_time)

    def prediction_step(self, model: nn.Module, inputs: Any, prediction_loss_only: bool,
                        ignore_keys: list[str] | None = None) -> Any:
        """The Trainer's, on the student's inputs."""
        return super().prediction_step(model, self._students(inputs), prediction_loss_only, ignore_keys)

    def _students(self, inputs: Any) -> dict[str, Any]:
        own = as_batch(inputs).student
        return {name: value for name, value in own.items() if name not in self._beside}

    def _set_signature_columns_if_needed(self) -> None:
        """Keep what the teacher reads, and what losses do, beside what the student's forward accepts."""
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        self._signature_columns: Any = [*columns, *sorted(self._beside.difference(columns))]


class _Hooks(TrainerCallback):
    """What happens between the Trainer's steps. One of a trainer's callbacks."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, *args: Any, **options: Any) -> None:
        """Some losses learn from what they saw."""
        self._trainer.bundle.after_step()

    def on_epoch_end(self, *args: Any, **options: Any) -> None:
        """Every process finds in the next epoch what any of them was told."""
        self._trainer.plan.teacher.flush()
        wait_for_all()

    def on_train_end(self, *args: Any, **options: Any) -> None:
        """A trained student's answers are kept for the next one."""
        self._trainer.plan.teacher.flush()


def _clip_with(clip: Any, more: Any, parameters: Any, *args: Any, **options: Any) -> Any:
    """Clip the norm of the gradient of everything that is trained, as one."""
    return clip([*parameters, *more()], *args, **options)


def _columns_beside(student: nn.Module, teachers: list[nn.Module], label_names: list[str]) -> frozenset[str]:
    """Columns of the data that the student's forward must not get: for the teacher, and for the losses."""
    read = {name for teacher in teachers for name in inspect.signature(teacher.forward).parameters}
    own = set(inspect.signature(student.forward).parameters)
    return frozenset((read | BESIDE_INPUTS | {"span_mask"}) - own - set(label_names) - {"args", "kwargs"})
