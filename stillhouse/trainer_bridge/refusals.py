"""What a distillation inside `transformers.Trainer` cannot be combined with, said before anything is trained."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import Trainer

from stillhouse.errors import PlanError
from stillhouse.training.distributed import world_size


def require_version() -> None:
    """Raise `PlanError` for a transformers whose Trainer would divide the loss a second time."""
    if not hasattr(Trainer, "loss_is_scaled_for_ga"):
        raise PlanError(f"transformers {transformers.__version__} has no Trainer.loss_is_scaled_for_ga, without which "
                        "it divides the loss by the number of accumulated batches once more; upgrade transformers "
                        "(5.24 has it), or use stillhouse.fit")


def require_used(teacher: Any, teacher_adaptor: Any, cache: str | Path, cache_dtype: torch.dtype | None) -> None:
    """Raise `PlanError` for an argument that would have no effect."""
    parts = teacher if isinstance(teacher, (list, tuple)) else [teacher]
    if teacher_adaptor is not None and not any(isinstance(part, nn.Module) for part in parts):
        raise PlanError("teacher_adaptor: there is no teacher model whose outputs it could read (a TeacherSource has "
                        "its own adaptor); leave it out, or give a model as teacher")
    if cache_dtype is not None and cache == "off":
        raise PlanError(f"cache_dtype={cache_dtype}: nothing is kept, for cache is 'off'; leave it out, or give "
                        "cache='memory' or a folder")
    if cache != "off" and teacher is None:
        raise PlanError(f"cache={str(cache)!r}: without a teacher there are no answers to keep; leave it out, or "
                        "give a teacher")


def require_supported(trainer: Any) -> None:
    """Raise `PlanError` for a setting that would change or break what is learned; warn of one without effect."""
    args = trainer.args
    if args.n_gpu > 1:
        raise PlanError(f"one process sees {args.n_gpu} GPUs and would use torch.nn.DataParallel, which cannot share "
                        "out a teacher's answers; start one process a GPU with torchrun or accelerate launch, or show "
                        "it one with CUDA_VISIBLE_DEVICES=0")
    sharded = {
        "fsdp": trainer.is_fsdp_enabled or trainer.is_fsdp_xla_enabled,
        "deepspeed": trainer.is_deepspeed_enabled,
        "parallelism_config": args.parallelism_config is not None,
        "a model loaded in parts (distributed_config)": getattr(trainer, "is_distributed_loading_by_transformers",
                                                                False),
    }
    for name, is_used in sharded.items():
        if is_used:
            raise PlanError(f"{name}: the student's weights would be spread over processes, and the losses' own "
                            "parameters are not; leave it out: torchrun alone gives every process a whole student")
    if args.torch_compile:
        raise PlanError("torch_compile: the student's hidden states are collected by hooks that cannot be compiled; "
                        "set torch_compile=False (in a recipe, training.compile compiles layer by layer)")
    if trainer.model_init is not None:
        raise PlanError("model_init: projections belong to one student; make it first and give model=..., and for a "
                        "search make a trainer for each trial")
    if trainer.compute_loss_func is not None:
        raise PlanError("compute_loss_func: the losses are those of distillation=...; give an Objective with a "
                        "FunctionLoss of yours as one of its terms, and leave compute_loss_func out")
    if args.label_smoothing_factor:
        raise PlanError(f"label_smoothing_factor={args.label_smoothing_factor}: the loss with hard labels is not "
                        "smoothed, and the teacher's answers are soft labels already; set it to 0")
    if not args.average_tokens_across_devices and world_size() > 1:
        warnings.warn("average_tokens_across_devices=False has no effect: losses are divided by counts over all "
                      "processes, so that the gradient does not depend on their number", stacklevel=3)
