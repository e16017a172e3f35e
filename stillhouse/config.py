"""The paper's configurations: frozen, strict, from code, JSON or YAML and back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from stillhouse import match_sets, presets
from stillhouse.errors import ConfigError, unknown_name

Positive = Annotated[int, Field(gt=0)]
Folder = Annotated[str | Path, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
Device = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, torch.device) else value)]
Listed = BeforeValidator(lambda value: list(value) if isinstance(value, tuple) else value)
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

    def __setattr__(self, name: str, value: Any) -> None:
        raise ConfigError(f"{type(self).__name__} is frozen; make another one with {name}={value!r}, as in "
                          f"type(config)(**(config.to_dict() | {{{name!r}: {value!r}}}))")

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
    device: Device = "auto"
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
    """A loss between layers of the two models, by number, or between two of their modules, by path."""

    layer_T: Annotated[int | list[int] | None, Listed] = None
    """Index into the teacher adaptor's list, or a list of such; negative counts from the end."""
    layer_S: Annotated[int | list[int] | None, Listed] = None
    """Index into the student adaptor's list, or a list of such."""
    module_T: str | None = None
    """Instead of a layer: the path of a module of the teacher, such as ``bert.pooler``, whose output is compared."""
    module_S: str | None = None
    """The path of a module of the student."""
    weight: float = 1.0
    """Weight of this loss."""
    loss: str
    """A name in MATCH_LOSS_MAP."""
    feature: str | None = None
    """What the layers are of: ``hidden`` or ``attention``, or another name in FEATURES."""
    proj: Annotated[list[Any] | None, Listed] = None
    """``[name, dim_S, dim_T]`` or ``[name, dim_S, dim_T, {optimizer options}]``, name in PROJ_MAP."""

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        presets.look_up("match loss", value, presets.MATCH_LOSS_MAP)
        return value

    @field_validator("feature")
    @classmethod
    def _known_feature(cls, value: str | None) -> str | None:
        if value is not None and value not in presets.FEATURES:
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

    @model_validator(mode="after")
    def _layers_or_modules(self) -> Self:
        by_layer = {"layer_T": self.layer_T, "layer_S": self.layer_S, "feature": self.feature}
        by_module = {"module_T": self.module_T, "module_S": self.module_S}
        for whole, other in ((by_layer, by_module), (by_module, by_layer)):
            if None not in whole.values() and set(other.values()) == {None}:
                return self._fitting_loss()
        given = [name for name, value in (by_layer | by_module).items() if value is not None]
        raise ValueError("give layer_T, layer_S and feature, or module_T and module_S; "
                         f"got {', '.join(given) or 'none of them'}")

    def _fitting_loss(self) -> Self:
        kind = presets.match_kind(self.loss)
        if kind is None:
            return self
        if self.feature is not None and (self.feature == "attention") != (kind.reads == "attention"):
            others = [name for name in presets.MATCH_LOSS_MAP if _reads(name) == self.feature]
            hint = f"; losses for it: {', '.join(others)}" if others else ""
            raise ValueError(f"{self.loss} compares {kind.reads}, and the feature is {self.feature!r}{hint}")
        if kind.reads == "attention" and self.proj is not None:
            raise ValueError(f"{self.loss} compares attention maps, which need no projection; drop proj")
        if self.module_T is not None and (kind.reads == "attention" or kind.num_layers != 1):
            raise ValueError(f"{self.loss} is no loss between two modules; hidden_mse, cos, pkd and functions of your "
                             "own are")
        wanted = kind.num_layers
        numbers = {len(layers) if isinstance(layers, list) else 1 for layers in (self.layer_T, self.layer_S)}
        if wanted is not None and numbers != {wanted}:
            example = "one layer, such as 8" if wanted == 1 else f"a list of {wanted} layers, such as {[8] * wanted}"
            raise ValueError(f"{self.loss} is given {example}, for the teacher and for the student")
        return self


def _reads(loss: str) -> str | None:
    kind = presets.match_kind(loss)
    return None if kind is None else kind.reads


def _strategy(value: Any) -> Any:
    if value in (None, "none") or isinstance(value, presets.NamedStrategy):
        return None if value == "none" else value
    if isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, (str, list)):
        raise ValueError(f"{value!r}: write none, constant, [flsw, BETA, GAMMA], [cwsm, BETA] or [NAME, {{ARGUMENTS}}]")
    return presets.NamedStrategy(value)


TemperatureChoice = Annotated[
    presets.NamedStrategy | None,
    PlainValidator(_strategy),
    PlainSerializer(lambda value: None if value is None else value.choice, return_type=Any),
]


class DistillationConfig(Config):
    """What a student learns: ``kd_loss_weight * KD + sum of weight * match + hard_label_weight * losses``."""

    temperature: Annotated[float, Field(gt=0)] = 4
    """Divides both logits."""
    temperature_scheduler: TemperatureChoice = None
    """``none``, ``constant``, ``[flsw, beta, gamma]``, ``[cwsm, beta]``, ``[name, {arguments}]`` or another name in
    TEMPERATURE_SCHEDULER. As an attribute it is callable: ``f(logits_S, logits_T, temperature)``."""
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
    probability_shift: bool = False
    """Exchange the teacher's logit of the label with its largest one; needs ``labels`` from the student's adaptor."""
    intermediate_matches: list[IntermediateMatch] = []
    """Losses between layers: `IntermediateMatch` or dictionaries, or the names of sets such as ``L3_hidden_mse``
    (`stillhouse.match_sets`)."""
    is_caching_logits: bool = False
    """Keep the teacher's answers in memory after the first pass."""

    @field_validator("intermediate_matches", mode="before")
    @classmethod
    def _matches(cls, value: Any) -> Any:
        given = [value] if isinstance(value, str) else value or []
        if not isinstance(given, (list, tuple)):
            return given
        matches: list[Any] = []
        for match in given:
            matches += match_sets.named_matches(match) if isinstance(match, str) else [match]
        return [IntermediateMatch(**match) if isinstance(match, dict) else match for match in matches]

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

    @model_validator(mode="after")
    def _warn_replaced_weights(self) -> Self:
        for name in ("kd_loss_weight", "hard_label_weight"):
            weight, schedule = getattr(self, name), getattr(self, f"{name}_scheduler")
            if schedule is not None and weight not in (0, 1):
                warnings.warn(f"{name}={weight} has no effect: the value of {name}_scheduler={schedule!r} replaces it; "
                              "register a schedule that includes the factor, or use a recipe, where schedules multiply",
                              stacklevel=4)
        return self


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
