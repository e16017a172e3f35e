"""A teacher that answers with smaller numbers than it was trained in: which kinds there are, and what each needs."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from stillhouse.errors import ConfigError, about, first_line, unknown_name
from stillhouse.recipe import yaml_files
from stillhouse.recipe.values import QuantizationName
from stillhouse.tasks.model_paths import resolved
from stillhouse.tasks.pretrained import quiet_transformers
from stillhouse.teachers import model_fingerprint
from stillhouse.teachers.quantized import VERSION, int8_dynamic, require_int8_products

KEY = "teacher.quantization"
_INT8_DYNAMIC = "int8-dynamic"
_MEANINGS: Mapping[str, Mapping[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
}
"""The options of bitsandbytes that a word stands for."""


@final
@dataclass(frozen=True)
class Quantization:
    """How a teacher answers. The model itself stays as it is, for students to be made of its weights.

    Attributes:
        choice: what the recipe says, a name or options of bitsandbytes.
        device: where the run is.
    """

    choice: QuantizationName | Mapping[str, Any]
    device: torch.device

    def __str__(self) -> str:
        return self.choice if isinstance(self.choice, str) else yaml_files.dump_line(dict(self.choice))

    @property
    def runs_on_cpu(self) -> bool:
        """Whether it is the kind for CPUs; models of the other, bitsandbytes, have a device and types of their own."""
        return self.choice == _INT8_DYNAMIC

    def require(self) -> None:
        """Raise `ConfigError` for what is not installed, not here, or no option."""
        with about(KEY):
            if self.runs_on_cpu:
                _require_cpu(self.device)
                require_int8_products()
            else:
                _require_options(self._options)
                _require_bitsandbytes(self, self.device)
                self._settings()

    def of(self, model: PreTrainedModel, path: str) -> PreTrainedModel:
        """The model that answers; ``path`` is where ``model`` was loaded from. Raises `ConfigError` if it cannot be
        loaded so, `PlanError` if there is nothing in it to quantize.
        """
        with about(KEY):
            return int8_dynamic(model) if self.runs_on_cpu else self._loaded(model, path)

    def fingerprint(self, model: PreTrainedModel) -> str:
        """The identity of the answers: the model's own, and how it is quantized."""
        kind = VERSION if self.runs_on_cpu else f"bitsandbytes {importlib.metadata.version('bitsandbytes')}"
        return f"{model_fingerprint(model)} {kind} {self}"

    @property
    def _options(self) -> Mapping[str, Any]:
        return _MEANINGS[self.choice] if isinstance(self.choice, str) else self.choice

    def _settings(self) -> BitsAndBytesConfig:
        try:
            found: BitsAndBytesConfig = BitsAndBytesConfig(**self._options)  # type: ignore[no-untyped-call]
            return found
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{self}: {error}; see BitsAndBytesConfig of transformers") from error

    def _loaded(self, model: PreTrainedModel, path: str) -> PreTrainedModel:
        settings = self._settings()
        dtype = settings.bnb_4bit_compute_dtype if settings.load_in_4bit else torch.float16  # as the kernels have it
        try:
            with quiet_transformers():
                loaded: PreTrainedModel = type(model).from_pretrained(
                    resolved(path), config=copy.deepcopy(model.config), quantization_config=settings,
                    device_map={"": self.device}, dtype=dtype, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as error:
            reason = first_line(error)
            raise ConfigError(f"bitsandbytes cannot load {path!r} as {self} ({reason}); leave quantization "
                              "out") from error
        return loaded


def _require_cpu(device: torch.device) -> None:
    if device.type != "cpu":
        raise ConfigError(f"{_INT8_DYNAMIC} is for CPUs, and this run is on {device}; use 8bit or 4bit, or set "
                          "training.device to cpu")


def _require_options(options: Mapping[str, Any]) -> None:
    known = [name for name, parameter in inspect.signature(BitsAndBytesConfig).parameters.items()
             if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    for name in options:
        if name not in known:
            raise ConfigError(unknown_name("option of bitsandbytes", name, known))


def _require_bitsandbytes(quantization: Quantization, device: torch.device) -> None:
    if device.type != "cuda":
        raise ConfigError(f"{quantization} needs a CUDA device, and this run is on {device}; use {_INT8_DYNAMIC}, "
                          "which is for CPUs, or leave quantization out")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{quantization} needs the package bitsandbytes, which is not installed; pip install "
                          "bitsandbytes, or leave quantization out")
