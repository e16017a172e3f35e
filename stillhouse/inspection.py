"""Saved models as tables of their size: a folder, a hub id, or the run folder of a recipe.

It stands above recipes, since it reads theirs, and beside the demo. Only shapes and types are loaded, never the weights
themselves.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from stillhouse.errors import ConfigError, UsageError, first_line
from stillhouse.recipe import yaml_files
from stillhouse.size_table import ParameterTable, parameter_table
from stillhouse.tasks.data_files import is_path
from stillhouse.tasks.model_paths import resolved
from stillhouse.tasks.pretrained import quiet_transformers

__all__ = ["inspect_models"]

_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SafetensorError)
_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")


def inspect_models(
    model: str, beside: str | None = None, *, depth: int | None = 2, sequence_length: int = 128
) -> ParameterTable:
    """The table of a saved model, or of a student ``beside`` its teacher; see `parameter_table` for what it shows.

    Both are folders or hub ids of transformers models, in the class that their configuration names and the type that
    they were saved in. A run folder stands for its student, which is shown beside the run's teacher (with a head like
    the student's, if the run trained one) unless ``beside`` is given. Warns of a folder without weights, which is
    inspected from its configuration, and of a run's teacher that is not there any more.

    Raises `ConfigError` for what is no model or cannot be loaded, and as `parameter_table` does.
    """
    first = _loaded(_student_of_run(model) or model)
    second = None if beside is None else _loaded(_student_of_run(beside) or beside)
    if beside is None and _student_of_run(model):
        teacher = _teacher_of_run(Path(model).expanduser(), first)
        first, second = (first, None) if teacher is None else (teacher, first)
    return parameter_table(first, beside=second, depth=depth, sequence_length=sequence_length)


def _student_of_run(path: str) -> str | None:
    """The folder of a run's student; None if the path is no run folder."""
    folder = Path(path).expanduser()
    if (folder / "config.json").exists() or not (folder / "recipe.yaml").exists():
        return None
    if not (folder / "student").is_dir():
        raise ConfigError(f"{path!r} is a run that has no student yet ({folder / 'student'} is not there); finish it "
                          "with stillhouse run RECIPE --resume, or give a model's folder")
    return str(folder / "student")


def _teacher_of_run(folder: Path, student: Any) -> nn.Module | None:
    try:
        # Not as a recipe: a run that was made with plugins can be inspected without them.
        recipe = yaml_files.read(folder / "recipe.yaml")
        teacher = recipe.get("teacher") if isinstance(recipe, dict) else None
        if not isinstance(teacher, dict) or not isinstance(teacher.get("model"), str):
            raise ConfigError(f"{folder / 'recipe.yaml'} names no model as teacher")
        name = teacher["model"]
        return _with_head_of(student, _configuration(resolved(name))) if teacher.get("train") else _loaded(name)
    except UsageError as error:
        warnings.warn(f"the student is shown alone, since its teacher cannot be: {error}", stacklevel=3)
        return None


def _with_head_of(student: Any, config: PretrainedConfig) -> nn.Module:
    """The model of a configuration as the run fine-tuned it, whatever head it was pre-trained with."""
    kind = type(student).__name__.partition("For")[2]
    auto_class = getattr(transformers, f"AutoModelFor{kind}", AutoModel)
    config.num_labels = student.config.num_labels
    with quiet_transformers(), torch.device("meta"):
        teacher: nn.Module = auto_class.from_config(config, dtype=torch.float32)
    return teacher


def _loaded(path: str) -> nn.Module:
    """On the meta device."""
    path = resolved(path)
    config = _configuration(path)
    model_class = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    folder = Path(path).expanduser()
    try:
        with quiet_transformers():
            if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
                return _from_configuration(path, config, model_class)
            source = str(folder) if folder.is_dir() else path
            model: nn.Module = model_class.from_pretrained(source, dtype="auto", device_map="meta",
                                                           trust_remote_code=False)
            return model
    except _LOAD_ERRORS as error:
        raise ConfigError(f"model {path!r} cannot be loaded: {_first_line(error)}; give a folder that save_pretrained "
                          "wrote") from error


def _from_configuration(path: str, config: PretrainedConfig, model_class: Any) -> nn.Module:
    dtype = config.dtype or torch.float32
    warnings.warn(f"{path} holds no weights: inspected from its configuration alone, in "
                  f"{str(dtype).removeprefix('torch.')}", stacklevel=4)
    build: Any = AutoModel.from_config if model_class is AutoModel else model_class
    with torch.device("meta"):
        model: nn.Module = build(config)
    return model.to(dtype)


def _configuration(path: str) -> PretrainedConfig:
    folder = Path(path).expanduser()
    if is_path(path) and not folder.exists():
        raise ConfigError(f"model {path!r}: there is no folder {folder.absolute()}")
    if folder.is_file() or (folder.is_dir() and not (folder / "config.json").is_file()):
        what = "is a file" if folder.is_file() else "holds no config.json"
        raise ConfigError(f"model {path!r} {what}, so it is no model; give a folder that save_pretrained wrote, a hub "
                          "id, or a run folder")
    try:
        with quiet_transformers():
            config: PretrainedConfig = AutoConfig.from_pretrained(str(folder) if folder.is_dir() else path,
                                                                  trust_remote_code=False)
            return config
    except _LOAD_ERRORS as error:
        if folder.is_dir():
            raise ConfigError(f"{folder / 'config.json'} is no model's configuration: {_first_line(error)}") from error
        raise ConfigError(f"model {path!r}: neither a folder here ({folder.absolute()}) nor, it seems, on the hub: "
                          f"{_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return first_line(error).rstrip(": .")
