"""A recipe: everything about one run, as frozen values. Unknown keys and values are errors that list every problem.

Relative paths, of data as of models and of the output, are relative to the current directory, as in a shell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from stillhouse import plugins
from stillhouse.errors import ConfigError, unknown_name
from stillhouse.recipe import yaml_files
from stillhouse.recipe.distillation_schema import DistillationSection
from stillhouse.recipe.merging import apply_override, merge_stages, only_stage, plugin_files
from stillhouse.recipe.models_schema import StudentSection, TeacherSection
from stillhouse.recipe.training_schema import StudentTraining
from stillhouse.recipe.values import ByteSize, CacheName, TrackerNames
from stillhouse.sections import Section, config_error
from stillhouse.sections.values import as_tuple
from stillhouse.tasks import TASKS, DataSpec
from stillhouse.tasks.augmentation import Augmentation


class Recipe(Section):
    """One run, or several as ``stages``; then the other fields are those of the last stage."""

    plugins: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    """Python files of your own losses, schedules and projections; they are only run with --allow-plugins."""
    name: str | None = None
    """What later stages call this one."""
    task: str
    """What is learned: text-classification, token-classification, question-answering, multiple-choice,
    sentence-embedding or masked-lm."""
    teacher: TeacherSection
    """The teacher: {model: PATH_OR_HUB_ID}, with train: {...} if it is to be fine-tuned first."""
    student: StudentSection
    """The student: {shape: T3}, {layers: [...]}, {keep: half}, {num_hidden_layers: 4, ...}, {network: BiGRU} or
    {model: PATH}."""
    data: SerializeAsAny[DataSpec]
    """The data: {train: FILE, validation: FILE, test: FILE, text: COLUMN, label: COLUMN}; its keys depend on the
    task."""
    augmentation: Augmentation | None = None
    """Further training rows without labels, which the teacher labels: {unlabelled: FILE} or {functions: [masking]}."""
    distillation: DistillationSection = DistillationSection()
    """What the student learns from the teacher."""
    training: StudentTraining = StudentTraining(epochs=StudentTraining.default_epochs)
    """How the student is trained."""
    cache: CacheName = "auto"
    """Where the teacher's answers are kept: auto (on disk if there is room, and if a GPU would not answer sooner than
    they are read), off, memory, or a folder."""
    cache_dtype: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """In which type; auto is the one that the teacher computes in, or bf16 where cache_budget asks for less than
    fp32. int8 keeps hidden states and embeddings in a byte a value, with a scale for each vector, the rest as fp16."""
    cache_budget: ByteSize = None
    """The most that the answers may take, such as 20 GB; with nothing said, half of what the disk has free where cache
    is auto (see docs/cache.md)."""
    contrast: Literal["none", "no_teacher"] = "none"
    """no_teacher also trains the same student on the labels alone, for comparison; where there are none, it is judged
    as it starts."""
    trackers: TrackerNames = ()
    """Where curves and results are shown, beside the run folder's own files: any of tensorboard (below OUTPUT), wandb
    and mlflow, which take their servers and projects from their own environment variables."""
    output: Annotated[str, Field(min_length=1)]
    """The run folder."""
    stages: Annotated[tuple[Recipe, ...], BeforeValidator(as_tuple)] = ()
    """Runs one after another: each a recipe that says only what differs from this one, and its name."""

    @model_validator(mode="before")
    @classmethod
    def _merge_stages(cls, values: Any) -> Any:
        return merge_stages(values) if isinstance(values, Mapping) else values

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        if name not in TASKS:
            raise ValueError(unknown_name("task", name, TASKS))
        return name

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"[{', '.join(names)}]: name each once")
        return names

    @field_validator("data", mode="wrap")
    @classmethod
    def _of_the_task(cls, values: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> DataSpec:
        task = TASKS.get(info.data.get("task", ""))
        if task is None:
            checked: DataSpec = check(values)
            return checked
        return task.data.model_validate(values)

    @classmethod
    def from_dict(cls, values: Any, where: str = "the recipe") -> Recipe:
        """Check plain values. Raises one `ConfigError` that lists every problem."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: expected keys with values (task: ..., teacher: ...), found {values!r}")
        try:
            recipe = cls.model_validate(dict(values))
        except ValidationError as error:
            raise config_error(error, cls, where, partial(_data_model, values)) from error
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
        plain["teacher"] = {key: value for key, value in plain["teacher"].items() if self.teacher.has_effect(key)}
        if self.training.max_grad_norm is None:
            plain["training"]["max_grad_norm"] = None
        if self.teacher.train is not None and self.teacher.train.max_grad_norm is None:
            plain["teacher"]["train"]["max_grad_norm"] = None
        return plain


def _data_model(values: Mapping[str, Any], loc: tuple[int | str, ...]) -> type[DataSpec] | None:
    """What the section ``data`` at this place may say, which depends on the task that stands beside it."""
    if loc[-1] != "data":
        return None
    stages = values.get("stages")
    number = loc[1] if loc[0] == "stages" else -1  # the top level is filled up from the last stage
    stage = stages[number] if isinstance(stages, (list, tuple)) and stages and isinstance(number, int) else {}
    task = (stage.get("task") if isinstance(stage, Mapping) else None) or values.get("task")
    return TASKS[task].data if isinstance(task, str) and task in TASKS else None


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, allow_plugins: bool = False,
                stage: str | None = None) -> Recipe:
    """Read a recipe file. ``overrides`` are ``"training.epochs=3"``: a dotted path and a YAML value.

    With ``allow_plugins`` the Python files that the recipe names as ``plugins`` are run first. With ``stage`` it is the
    recipe of that stage alone, which the overrides change. Its output folder is the one that it has in the whole, and
    students of earlier stages are looked for in theirs. Raises `ConfigError` for a file that cannot be read, is not
    YAML or is not a recipe, for a stage that is not there, and for plugins that are not allowed or fail.
    """
    values, where = yaml_files.read(Path(path)), str(path)
    if stage is not None:
        values, where = only_stage(values, stage, where), f"{where}, stage {stage}"
    for override in overrides:
        values = apply_override(values, override)
    files = plugin_files(values)
    if files and not allow_plugins:
        raise ConfigError(f"{path}: plugins: {', '.join(files)} would be run as Python code, with all your rights; "
                          "read them, then allow it with --allow-plugins (in Python, allow_plugins=True)")
    plugins.load_files(files)
    return Recipe.from_dict(values, where=where)
