"""A student whose layers are compiled while it is trained."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillhouse.errors import ConfigError, PlanError
from stillhouse.recipe.training_schema import StudentTraining, TrainingSettings
from stillhouse.students.layers import layer_list
from stillhouse.students.shapes import DEPTH

_REMEDY = "set training.compile to false"


def check_compilation(model: nn.Module, settings: TrainingSettings, device: torch.device) -> None:
    """Raise `ConfigError` if the student is to be compiled and that cannot be, as far as can be known without trying.

    On a CPU that takes a C++ compiler and Python's headers, on CUDA Triton and a C compiler.
    """
    if not _is_wanted(settings):
        return
    if settings.gradient_checkpointing:  # torch switches compilation off inside it, and says nothing
        raise ConfigError("training.compile: layers that gradient_checkpointing computes again are not compiled; set "
                          "one of the two to false")
    _layers(model)
    lacking = _lacking(device)
    if lacking:
        raise ConfigError(f"training.compile: to compile for {device.type}, {' and '.join(lacking)}; {_REMEDY}, or "
                          "install that")


@contextmanager
def compiled(model: nn.Module, settings: TrainingSettings) -> Iterator[None]:
    """The model's layers are compiled inside in training mode, if the settings ask for it; in eval mode they never are.

    Layers of one kind are compiled once, for all lengths and batch sizes: much faster than the model as a whole, whose
    outputs are collected by hooks that cannot be compiled. Names and values of its weights stay. Raises `ConfigError`
    if compilation fails.
    """
    if not _is_wanted(settings):
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    layers = _layers(model)
    for layer in layers:
        layer.forward = _in_training(layer, layer.forward)
    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"training.compile: torch.compile failed on {type(model).__name__} ({reason}); "
                          f"{_REMEDY}") from error
    finally:
        for layer in layers:
            del layer.forward  # the one of its class is there again


def _is_wanted(settings: TrainingSettings) -> bool:
    return isinstance(settings, StudentTraining) and settings.compile


def _layers(model: nn.Module) -> list[nn.Module]:
    """The model's layers. Raises `ConfigError` if it does not tell which they are."""
    config: Any = model.config
    try:
        found: Any = model.get_submodule(layer_list(model, getattr(config, DEPTH, 0)))
    except PlanError as error:
        raise ConfigError(f"training.compile: a {type(model).__name__} has no list of layers that could be compiled; "
                          f"{_REMEDY}") from error
    return list(found)


def _in_training(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same forward, compiled for training alone: evaluation would take a compilation of its own and use it less."""
    fast = torch.compile(forward, dynamic=True)

    @functools.wraps(forward)
    def either(*arguments: Any, **named: Any) -> Any:
        return (fast if layer.training else forward)(*arguments, **named)

    return either


def _lacking(device: torch.device) -> list[str]:
    """What this machine lacks for compilation, each as a clause."""
    if device.type == "cuda":
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        has_triton = importlib.util.find_spec("triton") is not None
        return [*_without(compilers, "C"), *([] if has_triton else ["Triton is missing (the package triton)"])]
    compilers = [os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")]
    has_headers = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    return [*_without(compilers, "C++"),
            *([] if has_headers else ["Python's headers are missing (in Debian, the package python3-dev)"])]


def _without(compilers: list[str], language: str) -> list[str]:
    found = any(shutil.which(compiler) for compiler in compilers)
    return [] if found else [f"a {language} compiler is missing ({' or '.join(compilers)})"]
