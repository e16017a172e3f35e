"""The paper's configurations: frozen, strict, from code, JSON or YAML and back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from stillhouse import presets
from stillhouse.errors import ConfigError, unknown_name

Positive = Annotated[int, Field(gt=0)]
Folder = Annotated[str | Path, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
NameOrNone = Annotated[str | None, BeforeValidator(lambda value: None if value == "none" else value)]


def validation_message(error: ValidationError, fields: list[str], what: str) -> str:
    """Every problem of a pydantic error, one a line, with the allowed names for unknown ones."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(unknown_name(f"setting of {what}", place, fields))
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = "" if isinstance(problem["input"], (list, dict)) else f"={problem['input']!r}"
            lines.append(f"{place}{value}: {message}" if place else message)
    return "; ".join(lines)


class Config(BaseModel):
    """Base of the paper's configurations. Raises `ConfigError` for unknown settings and values out of range."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            name = type(self).__name__
            raise ConfigError(f"{name}: {validation_message(error, list(type(self).model_fields), name)}") from None

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Build from a dictionary. Raises `ConfigError`."""
        if not isinstance(settings, dict):
            raise ConfigError(f"{cls.__name__} is built from a dictionary, not from {settings!r}")
        return cls(**settings)

    @classmethod
    def from_json_file(cls, path: str | Path) -> Self:
        """Read a JSON file. Raises `ConfigError` if it cannot be read."""
        return cls(**_read(path, json.loads))

    @classmethod
    def from_yaml_file(cls, path: str | Path) -> Self:
        """Read a YAML file. Raises `ConfigError` if it cannot be read."""
        return cls(**_read(path, yaml.safe_load))

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values, which `from_dict` reads."""
        return self.model_dump()

    def to_json_file(self, path: str | Path) -> None:
        """Write a JSON file that `from_json_file` reads."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def to_yaml_file(self, path: str | Path) -> None:
        """Write a YAML file that `from_yaml_file` reads."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")

    def __str__(self) -> str:
        return "\n".join(f"{name} : {value}" for name, value in self)


class TrainingConfig(Config):
    """How a distiller trains."""

    gradient_accumulation_steps: Positive = 1
    """Micro-batches for each optimizer step."""
    ckpt_frequency: Positive = 1
    """Checkpoints an epoch."""
    ckpt_epoch_frequency: Positive = 1
    """Save only in epochs that this divides, and in the last."""
    ckpt_steps: Positive | None = None
    """With num_steps: save every so many steps; None saves at the end only."""
    log_dir: Folder | None = None
    """Folder for TensorBoard files; None writes none."""
    output_dir: Folder | None = "./saved_models"
    """Folder for checkpoints, made when training starts; None keeps none."""
    device: str = "auto"
    """``auto`` (CUDA, else the CPU), ``cpu``, ``cuda``, ``cuda:1``."""
    fp16: bool = False
    """The original's name for ``precision="fp16"``."""
    fp16_opt_level: str = "O1"
    """Has no effect; kept so that old configurations load."""
    data_parallel: bool = False
    """Has no effect; kept so that old configurations load."""
    local_rank: int = -1
    """Has no effect: a process group that was set up is used."""
    resume: bool = False
    """Go on from the newest checkpoint in output_dir."""
    seed: int | None = None
    """Seed all generators when training starts; None leaves them alone."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """What the student runs in; ``auto`` is bf16 where the hardware has it."""
    log_every: Positive = 10
    """Optimizer steps between logged values."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fp16 and self.precision not in ("fp32", "fp16"):
            raise ValueError(f"fp16=True contradicts precision={self.precision!r}; drop fp16")
        if self.output_dir == "":
            raise ValueError("output_dir is empty; give a folder, or None to keep no checkpoints")
        if self.data_parallel:
            warnings.warn("data_parallel has no effect; start one process a device with torchrun instead", stacklevel=4)
        if self.fp16_opt_level != "O1":
            warnings.warn("fp16_opt_level has no effect; set precision='bf16' or 'fp16'", stacklevel=4)
        return self


class IntermediateMatch(Config):
    """A loss between one layer of each model, or between lists of layers."""

    layer_T: int | list[int]
    """Index into the teacher adaptor's list; negative counts from the end."""
    layer_S: int | list[int]
    """Index into the student adaptor's list."""
    weight: float
    """Weight of this loss."""
    loss: str
    """A name in MATCH_LOSS_MAP."""
    feature: str
    """``hidden`` or ``attention``, or another name in FEATURES."""
    proj: list[Any] | None = None
    """``[name, dim_S, dim_T]`` or ``[name, dim_S, dim_T, {optimizer options}]``, name in PROJ_MAP."""

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        presets.look_up("match loss", value, presets.MATCH_LOSS_MAP)
        return value

    @field_validator("feature")
    @classmethod
    def _known_feature(cls, value: str) -> str:
        if value not in presets.FEATURES:
            raise ValueError(unknown_name("feature", value, presets.FEATURES))
        return value

    @field_validator("proj")
    @classmethod
    def _whole_projection(cls, value: list[Any] | None) -> list[Any] | None:
        if value is None:
            return None
        if len(value) not in (3, 4) or not all(isinstance(dim, int) and dim > 0 for dim in value[1:3]):
            raise ValueError("write [name, dim_S, dim_T] or [name, dim_S, dim_T, {optimizer options}]")
        presets.look_up("projection", value[0], presets.PROJ_MAP)
        if len(value) == 4 and not isinstance(value[3] or {}, dict):
            raise ValueError(f"optimizer options {value[3]!r} must be a dictionary, such as {{'lr': 0.001}}")
        return value


class DistillationConfig(Config):
    """What a student learns: ``kd_loss_weight * KD + sum of weight * match + hard_label_weight * losses``."""

    temperature: Annotated[float, Field(gt=0)] = 4
    """Divides both logits."""
    temperature_scheduler: NameOrNone = None
    """A name in TEMPERATURE_SCHEDULER, or ``none``."""
    hard_label_weight: float = 0
    """Weight of the sum of the student adaptor's losses."""
    hard_label_weight_scheduler: NameOrNone = None
    """A name in WEIGHT_SCHEDULER, or ``none``; its value replaces the weight."""
    kd_loss_type: str = "ce"
    """A name in KD_LOSS_MAP."""
    kd_loss_weight: float = 1
    """Weight of the loss between logits."""
    kd_loss_weight_scheduler: NameOrNone = None
    """A name in WEIGHT_SCHEDULER, or ``none``; its value replaces the weight."""
    probability_shift: Literal[False] = False
    """Swapping the label's probability with the largest is not available; must be False."""
    intermediate_matches: list[IntermediateMatch] = []
    """Losses between layers, as `IntermediateMatch` or dictionaries."""
    is_caching_logits: bool = False
    """Keep the teacher's answers in memory after the first pass."""

    @field_validator("intermediate_matches", mode="before")
    @classmethod
    def _matches(cls, value: Any) -> Any:
        return [IntermediateMatch(**match) if isinstance(match, dict) else match for match in value or []]

    @field_validator("kd_loss_type")
    @classmethod
    def _known_kd_loss(cls, value: str) -> str:
        presets.look_up("kd_loss_type", value, presets.KD_LOSS_MAP)
        return value

    @field_validator("hard_label_weight_scheduler", "kd_loss_weight_scheduler")
    @classmethod
    def _known_schedule(cls, value: str | None) -> str | None:
        if value is not None:
            presets.look_up("weight schedule", value, presets.WEIGHT_SCHEDULER)
        return value

    @field_validator("temperature_scheduler")
    @classmethod
    def _known_temperature(cls, value: str | None) -> str | None:
        if value not in (None, "constant"):
            presets.look_up("temperature strategy", value, presets.TEMPERATURE_SCHEDULER)
            raise ValueError("strategies other than 'constant' and 'none' are not available yet")
        return value


def _read(path: str | Path, parse: Any) -> dict[str, Any]:
    try:
        settings = parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not valid: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds {type(settings).__name__}, not settings by name")
    return settings
