"""A finished run, or a model that some other program saved, as one value: its task, its student, its results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.errors import CheckpointError, ConfigError, DataError, unknown_name
from stillhouse.recipe import Recipe, yaml_files
from stillhouse.sections.stages import stage_folder
from stillhouse.tasks import TASKS, DataSpec, Task
from stillhouse.tasks.pretrained import load_config, longest_row
from stillhouse.training import Precision, resolve_precision


@final
@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What `open_run` finds.

    Attributes:
        path: the run folder; of a model without a run, where it is from.
        student_dir: the model that ``from_pretrained`` loads; of a model without a run the same.
        task: its task. No data is loaded; the label names are the model's own, unless others were given.
        values: what ``recipe.yaml`` says, as plain values; empty for a model without a run.
        task_is_assumed: whether nobody named the task, and the kind of model told it.
    """

    path: Path
    student_dir: Path
    task: Task[Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    task_is_assumed: bool = False

    @cached_property
    def recipe(self) -> Recipe | None:
        """The run's recipe; None for a model without a run.

        Raises `ConfigError` if it cannot be checked, as for a run whose plugins were not loaded before.
        """
        return Recipe.from_dict(self.values, str(self.path / "recipe.yaml")) if self.values else None

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """What ``metrics.json`` says; empty for a model without a run, and for a run that ended before it.

        Raises `CheckpointError` if the file cannot be read.
        """
        path = self.path / "metrics.json"
        if not self.values or not path.exists():
            return {}
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def load_student(self) -> PreTrainedModel:
        """The student, in float32 on the CPU and in eval mode. Raises `ConfigError` and `PlanError`."""
        return self.task.load_model(str(self.student_dir))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What the student reads with. Raises `ConfigError`."""
        return self.task.load_tokenizer(str(self.student_dir))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around what reads data: if it is wrong, and the task was assumed, the `DataError` says which and how to say
        otherwise.
        """
        try:
            yield
        except DataError as error:
            if not self.task_is_assumed:
                raise
            raise DataError(f"{error}\nno task was given, and {self.path} was taken for a model of {self.task.name}; "
                            "if it is of another, name that with --task (in Python task=...)") from error

    def precision(self, device: torch.device) -> Precision:
        """The precision in which the run judged its student; fp32 for a model without a run."""
        name = self.values.get("training", {}).get("precision", "auto")
        if not self.values or (name == "fp16" and device.type == "cpu"):
            return Precision()
        return resolve_precision(name, device)


def open_run(path: str | Path, *, task: str | None = None, settings: Mapping[str, Any] | None = None) -> FinishedRun:
    """A run folder with a student in it, or a model: a folder that ``save_pretrained`` wrote, or a hub id.

    A run with stages stands for its last stage. Only configurations are read; the model is loaded when it is asked for.

    Args:
        path: the run folder or model.
        task: the name of the model's task, where its configuration does not tell; a run knows its own.
        settings: values of the recipe's section ``data`` to be used instead, such as other columns.

    Raises `ConfigError` for what is neither, for a run without a student yet, a task that the model has no head for,
    and settings that the task does not have.
    """
    folder = Path(path).expanduser()
    if task is not None and task not in TASKS:
        raise ConfigError(unknown_name("task", task, TASKS))
    if (folder / "recipe.yaml").is_file():
        return _run(folder, task, settings or {})
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(_neither(folder))
    return _model(str(path), task, settings or {})


def _run(folder: Path, task: str | None, settings: Mapping[str, Any]) -> FinishedRun:
    values = yaml_files.read(folder / "recipe.yaml")
    if isinstance(values, Mapping) and values.get("stages"):
        return _run(_last_stage(folder, values["stages"]), task, settings)
    name = values.get("task") if isinstance(values, Mapping) else None
    if not isinstance(name, str) or name not in TASKS or not isinstance(values.get("data"), Mapping):
        raise ConfigError(f"{folder / 'recipe.yaml'} is no recipe with a known task and data; give the folder of a run "
                          "that stillhouse has made")
    if task not in (None, name):
        raise ConfigError(f"{folder} is a run of {name}, not of {task}; leave the task out")
    student_dir = folder / "student"
    if not (student_dir / "config.json").is_file():
        raise ConfigError(f"{folder} is a run without a student yet (there is no {student_dir}); finish it with "
                          "stillhouse run RECIPE --resume")
    model = _of_model(TASKS[name].data, load_config(str(student_dir)))
    names = {"label_names": model["label_names"]} if "label_names" in model else {}
    return FinishedRun(folder, student_dir, _task(name, {**values["data"], **names, **settings}), values)


def _model(source: str, given: str | None, settings: Mapping[str, Any]) -> FinishedRun:
    config = load_config(source)
    holds = ", ".join(config.architectures or ()) or "no named model"
    fitting = [known for known, kind in TASKS.items() if _has_head(kind, config)]
    if given is None and len(fitting) != 1:
        raise ConfigError(f"model {source!r} holds {holds}, which does not say what its task is; give the task "
                          f"(--task): {', '.join(TASKS)}")
    name = given or fitting[0]
    if TASKS[name].has_labels and name not in fitting:
        raise ConfigError(f"model {source!r} holds {holds}, which has no trained head for {name}; give a model that "
                          "was trained for it" + (f", or the task {fitting[0]}" if fitting else ""))
    path = Path(source).expanduser()
    unknown = {key: "" for key, each in TASKS[name].data.model_fields.items() if each.is_required()}  # such as train
    return FinishedRun(path, path, _task(name, {**unknown, **_of_model(TASKS[name].data, config), **settings}),
                       task_is_assumed=given is None)


def _task(name: str, values: Mapping[str, Any]) -> Task[Any]:
    return TASKS[name](TASKS[name].data.of(**values))


def _of_model(section: type[DataSpec], config: Any) -> dict[str, Any]:
    """What a model's configuration says for the section ``data``, as far as there are such keys in it."""
    length, longest = section.model_fields["max_length"].default, longest_row(config)
    kinds = {"multi_label_classification": "multi", "regression": "regression"}
    found = {"max_length": min(length, longest or length),
             "labels": "regression" if config.num_labels == 1 else kinds.get(config.problem_type or "", "single"),
             "label_names": [str(config.id2label[number]) for number in range(config.num_labels)]}
    return {key: value for key, value in found.items() if key in section.model_fields}


def _has_head(kind: type[Task[Any]], config: Any) -> bool:
    return any(name.endswith(kind.head) for name in config.architectures or ())


def _last_stage(folder: Path, stages: Any) -> Path:
    found = stage_folder(folder, stages[-1])
    if found is None:
        raise ConfigError(f"{folder} is a run with stages, of which the last is not in {stages[-1].get('output')} yet; "
                          "finish it with stillhouse run RECIPE --resume, or give the folder of a stage")
    return found


def _neither(folder: Path) -> str:
    seeds = sorted(path.parent.name for path in folder.glob("seed-*/recipe.yaml"))
    if seeds:
        return f"{folder} holds runs with several seeds; give one of them, such as {folder / seeds[0]}"
    return (f"{folder} holds neither recipe.yaml, as a run does, nor config.json, as a model does; give the output "
            "folder of a run, or a folder that save_pretrained wrote")
