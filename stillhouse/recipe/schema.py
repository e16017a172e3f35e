"""A recipe: everything about one run, as frozen values. Unknown keys and values are errors that list every problem.

Relative paths, of data as of models and of the output, are relative to the current directory, as in a shell.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from stillhouse import plugins
from stillhouse.errors import ConfigError
from stillhouse.recipe import yaml_files
from stillhouse.recipe.distillation_schema import DistillationSection
from stillhouse.recipe.merging import apply_override, merge_stages, plugin_files
from stillhouse.recipe.section import Section
from stillhouse.recipe.validation import config_error, unknown_key
from stillhouse.recipe.values import (
    CacheName,
    Count,
    DurationText,
    Keep,
    LabelNames,
    LayerNumbers,
    NotNegative,
    Positive,
    as_tuple,
)
from stillhouse.types import Duration, DurationUnit


class TrainingSettings(Section):
    """What fine-tuning a teacher and training a student have in common."""

    default_epochs: ClassVar[float]

    epochs: Positive | None = None
    """Passes over the training data; a fraction trains a part. Or give steps."""
    steps: Count | None = None
    """Optimizer steps, instead of epochs, over as many passes as it takes."""
    batch_size: Count = 32
    """Rows in a micro-batch (on each process)."""
    accumulation: Count = 1
    """Micro-batches in an optimizer step."""
    learning_rate: Positive = 1e-4
    """The highest learning rate."""
    warmup: DurationText = 0.1
    """How long the learning rate rises: a share of training from 0 to 1, 'N steps' or 'N epochs'."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up, to 0 at the end (constant: not at all)."""
    weight_decay: NotNegative = 0.01
    """AdamW's weight decay; biases and normalisation weights are left out."""
    max_grad_norm: Positive | None = 1.0
    """The gradient of all that is trained is clipped to this norm; null does not clip."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 where the hardware has it, else fp32."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides new weights, the order of the data and dropout."""
    evaluate_every: DurationText = "1 epochs"
    """How often the model is judged on the validation data and a checkpoint is kept: 'N steps' or 'N epochs'."""
    keep_last: Count = 1
    """How many newest checkpoints are kept, beside the best one."""
    early_stopping: Count | None = None
    """Stop after so many evaluations without a better one; null never does."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    log_every: Count = 50
    """Optimizer steps between logged values."""

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = [name for name in ("epochs", "steps") if values.get(name) is not None]
        if len(given) == 2:
            raise ValueError("give epochs or steps, not both")
        return values if given else {**values, "epochs": cls.default_epochs}

    @field_validator("evaluate_every")
    @classmethod
    def _whole_epochs(cls, value: str | float) -> str | float:
        duration = Duration.parse(value)
        if duration.value <= 0 or (duration.unit is DurationUnit.EPOCHS and duration.value != int(duration.value)):
            raise ValueError(f"{value!r}: write 'N steps' or 'N epochs' with a whole number from 1")
        return value


class TeacherTraining(TrainingSettings):
    """How the teacher is fine-tuned first. It is done once: the result is stored by content and used again."""

    default_epochs = 3.0

    learning_rate: Positive = 5e-5
    """The highest learning rate."""


class StudentTraining(TrainingSettings):
    """How the student is trained."""

    default_epochs = 10.0

    device: str = "auto"
    """auto, cpu, cuda or cuda:1: where everything runs, the teacher included."""


class TeacherSection(Section):
    """The teacher: a model, fine-tuned on the task already or by ``train``; or the student of an earlier stage."""

    model: str | None = None
    """A folder with a model and its tokenizer, or a hub id."""
    train: TeacherTraining | None = None
    """Fine-tune the model on the training data first."""
    run: str | None = None
    """The name of an earlier stage, whose student teaches."""

    @model_validator(mode="after")
    def _one_way(self) -> TeacherSection:
        if (self.model is None) == (self.run is None):
            raise ValueError("give either model: PATH_OR_HUB_ID or run: NAME_OF_AN_EARLIER_STAGE")
        return self


class StudentSection(Section):
    """The student, described in exactly one way. Other keys are values of the teacher's configuration to replace."""

    shape: str | None = None
    """A named shape: T6, T3 (from the teacher's layers), T3-small, T4-tiny, T12-nano (from scratch)."""
    layers: LayerNumbers = None
    """The teacher's layers to keep, counted from 0."""
    keep: Keep = None
    """half, or how many of the teacher's layers to keep, evenly spread."""
    config: Mapping[str, Any] | None = None
    """A new shape from scratch, such as {num_hidden_layers: 4, hidden_size: 160}; its keys may stand here directly."""
    model: str | None = None
    """A folder with a model of your own and its tokenizer, or a hub id."""
    run: str | None = None
    """The name of an earlier stage, whose student is trained further."""

    @model_validator(mode="before")
    @classmethod
    def _gather_config(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        own = list(cls.model_fields)
        loose = {key: value for key, value in values.items() if key not in own}
        for key in loose:
            if difflib.get_close_matches(str(key), own, n=1, cutoff=0.75):
                raise ValueError(f"{key}: {unknown_key(str(key), own)}; or keys of the teacher's configuration")
        if loose and values.get("config") is not None:
            raise ValueError(f"{', '.join(map(str, loose))}: write all values either inside config or beside it")
        rest = {key: value for key, value in values.items() if key in own}
        return {**rest, "config": loose} if loose else rest

    @model_validator(mode="after")
    def _one_way(self) -> StudentSection:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            ways = " or ".join(f"--set 'student={_flow({name: getattr(self, name)})}'" for name in given)
            raise ValueError("describe the student in exactly one way: {shape: T3}, {layers: [0, 2, 4]}, {keep: half}, "
                             "{num_hidden_layers: 4, ...}, {model: PATH} or {run: STAGE}; "
                             f"got {' and '.join(given) or 'none'}"
                             f"{f' (the command line replaces it whole: {ways})' if ways else ''}")
        return self


class DataSection(Section):
    """The data: files (.json, .jsonl, .csv, .tsv, .parquet, also .gz), folders or hub ids."""

    train: str
    """The training data: a file, a folder or a hub id."""
    validation: str | None = None
    """Picks the best checkpoint; without it a tenth of the training data is held out."""
    test: str | None = None
    """What is reported in the end; without it the validation data is."""
    text: str = "text"
    """The column with the text."""
    text_pair: str | None = None
    """The column with the second text, for pairs."""
    label: str = "label"
    """The column with the label: a name, or a number from 0."""
    label_names: LabelNames = None
    """The names of the labels in order: a file or a list. Needed for numbers, optional for names."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """Tokens; longer rows are cut."""
    limit: Count | None = None
    """Train on the first so many rows only, to try things out."""


class Recipe(Section):
    """One run, or several as ``stages``; then the other fields are those of the last stage."""

    plugins: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    """Python files of your own losses, schedules and projections; they are only run with --allow-plugins."""
    name: str | None = None
    """What later stages call this one."""
    task: str
    """What is learned: text-classification."""
    teacher: TeacherSection
    """The teacher: {model: PATH_OR_HUB_ID}, with train: {...} if it is to be fine-tuned first."""
    student: StudentSection
    """The student: {shape: T3}, {layers: [...]}, {keep: half}, {num_hidden_layers: 4, ...} or {model: PATH}."""
    data: DataSection
    """The data: {train: FILE, validation: FILE, test: FILE, text: COLUMN, label: COLUMN}."""
    distillation: DistillationSection = DistillationSection()
    """What the student learns from the teacher."""
    training: StudentTraining = StudentTraining(epochs=StudentTraining.default_epochs)
    """How the student is trained."""
    cache: CacheName = "auto"
    """Where the teacher's answers are kept: auto (on disk if there is room), off, memory, or a folder."""
    cache_dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """In which type; auto is the one that the teacher computes in."""
    contrast: Literal["none", "no_teacher"] = "none"
    """no_teacher also trains the same student on the labels alone, for comparison."""
    output: Annotated[str, Field(min_length=1)]
    """The run folder."""
    stages: Annotated[tuple[Recipe, ...], BeforeValidator(as_tuple)] = ()
    """Runs one after another: each a recipe that says only what differs from this one, and its name."""

    @model_validator(mode="before")
    @classmethod
    def _merge_stages(cls, values: Any) -> Any:
        return merge_stages(values) if isinstance(values, Mapping) else values

    @classmethod
    def from_dict(cls, values: Any, where: str = "the recipe") -> Recipe:
        """Check plain values. Raises one `ConfigError` that lists every problem."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: expected keys with values (task: ..., teacher: ...), found {values!r}")
        try:
            recipe = cls.model_validate(dict(values))
        except ValidationError as error:
            raise config_error(error, cls, where) from error
        for section in ("teacher", "student"):
            if getattr(recipe, section).run is not None:
                raise ConfigError(f"{where}: {section}.run names an earlier stage, and there are no stages; "
                                  f"write {section}: {{model: PATH}}")
        return recipe

    def as_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes an equal recipe, defaults filled in."""
        if self.stages:
            return {"output": self.output, "stages": [stage.as_dict() for stage in self.stages]}
        plain = self.model_dump(mode="json", exclude={"stages"}, exclude_none=True)
        if self.training.max_grad_norm is None:
            plain["training"]["max_grad_norm"] = None
        if self.teacher.train is not None and self.teacher.train.max_grad_norm is None:
            plain["teacher"]["train"]["max_grad_norm"] = None
        return plain


def _flow(value: Mapping[str, Any]) -> str:
    """As one would write it on the command line."""
    plain = {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
    return yaml_files.dump_line(plain)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, allow_plugins: bool = False) -> Recipe:
    """Read a recipe file. ``overrides`` are ``"training.epochs=3"``: a dotted path and a YAML value.

    With ``allow_plugins`` the Python files that the recipe names as ``plugins`` are run first. Raises `ConfigError` for
    a file that cannot be read, is not YAML or is not a recipe, and for plugins that are not allowed or fail.
    """
    values = yaml_files.read(Path(path))
    for override in overrides:
        values = apply_override(values, override)
    files = plugin_files(values)
    if files and not allow_plugins:
        raise ConfigError(f"{path}: plugins: {', '.join(files)} would be run as Python code, with all your rights; "
                          "read them, then allow it with --allow-plugins (in Python, allow_plugins=True)")
    plugins.load_files(files)
    return Recipe.from_dict(values, where=str(path))
