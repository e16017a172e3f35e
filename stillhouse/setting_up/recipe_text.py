"""The text of a new recipe: what was chosen, what suits the amount of data, and comments for whoever changes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from stillhouse.errors import ConfigError
from stillhouse.recipe import yaml_files
from stillhouse.tasks import TASKS
from stillhouse.tasks.model_paths import resolved

_WIDE, _NARROW = 768, 384
_STUDENT_STEPS, _STUDENT_EPOCHS = 1000, (3, 40)
_TEACHER_STEPS, _TEACHER_EPOCHS = 400, (3, 15)
_NARROW_STUDENTS = {"T3-small": 4e-4, "T12-nano": 4e-4, "T4-tiny": 1e-3}
_FROM_TEACHER = ("shape", "layers", "keep")
_BATCH = {"question-answering": 16}
_WORD_TASKS = ("token-classification", "question-answering")


@final
@dataclass(frozen=True)
class Choices:
    """What a recipe is written from.

    Attributes:
        data: the section ``data``, without ``max_length``.
        teacher: a folder, a hub id or ``package:NAME/FOLDER``.
        student: the section ``student``.
        output: the run folder.
        num_rows: rows of the training data.
        length: about how many tokens 99 of 100 rows do not exceed; None where nothing was measured.
        max_length: the tokens of a row; None for the task's default.
    """

    task: str
    data: Mapping[str, Any]
    teacher: str
    student: Mapping[str, Any]
    output: str
    num_rows: int
    length: int | None
    max_length: int | None

    @property
    def teacher_is_trained(self) -> bool:
        """Whether the teacher is fine-tuned already, as far as that can be seen without loading or fetching it."""
        if self.task == "sentence-embedding":
            return True
        head = TASKS[self.task].head
        return any(str(name).endswith(head) for name in _config(self.teacher).get("architectures") or ())

    @property
    def teacher_width(self) -> int:
        """The teacher's hidden size; where its configuration is not on this machine, what its name suggests."""
        config = _config(self.teacher)
        found = config.get("hidden_size", config.get("dim"))
        is_small = any(word in self.teacher.lower() for word in ("minilm", "small", "tiny", "mini"))
        return found if isinstance(found, int) else _NARROW if is_small else _WIDE


def recipe_text(choices: Choices, path: str) -> str:
    """The recipe as YAML, for the file ``path``."""
    task, split = choices.task, choices.data
    lines = [
        "# Written by `stillhouse init`. What every key means: docs/recipes.md. `stillhouse plan "
        f"{path}` checks it.",
        f"task: {task}", "",
        *_teacher_lines(choices), "",
        "# The small model. T3 and T6 start from the teacher's first layers; T3-small, T4-tiny and T12-nano are",
        "# narrower and start from scratch; {keep: half} takes every second layer; {network: BiGRU} is no transformer.",
        f"student: {_line(dict(choices.student))}", "",
        "data:",
        *(f"  {key}: {_line(value)}" for key, value in split.items()),
        *(["  # validation: FILE  # picks the best checkpoint; without it a tenth of the training rows is held out"]
          if "validation" not in split else []),
        *(["  # test: FILE  # what is reported in the end; without it the validation data is"]
          if "test" not in split else []),
        *_length_lines(choices), "",
        "# What the student learns from the teacher: its answers, and where layers are matched, its hidden states.",
        f"distillation: {_line(_distillation(choices))}", "",
        *_training_lines(choices), "",
        "# contrast: no_teacher  # also train the same student without the teacher, to see what it gains",
        "# trackers: [tensorboard]  # or wandb, mlflow",
        f"output: {_line(choices.output)}",
    ]
    return "\n".join(lines) + "\n"


def _line(value: Any) -> str:
    """A value on one line, as it stands behind a key."""
    return yaml_files.dump_line([value])[1:-1]


def _teacher_lines(choices: Choices) -> list[str]:
    model = _line(choices.teacher)
    if choices.teacher_is_trained:
        return ["# The large model, trained for this task already: a folder, a hub id or package:NAME/FOLDER.",
                f"teacher: {{model: {model}}}"]
    base = 5e-5 if choices.teacher_width > _NARROW else 1e-4
    rate = 2 * base if choices.task in _WORD_TASKS else base
    epochs = _epochs(choices, _TEACHER_STEPS, _TEACHER_EPOCHS)
    train = {"epochs": epochs, "learning_rate": rate, **_batch(choices)}
    return ["# The large model: a folder, a hub id or package:NAME/FOLDER. It is fine-tuned on the training data",
            "# first, once; leave train out for a model that does this task already.",
            "teacher:", f"  model: {model}", f"  train: {_line(train)}"]


def _length_lines(choices: Choices) -> list[str]:
    if choices.max_length is None:
        return []
    why = "" if choices.length is None else f"  # tokens; 99 of 100 rows have about {choices.length} or fewer"
    return [f"  max_length: {choices.max_length}{why}"]


def _training_lines(choices: Choices) -> list[str]:
    rate = _student_rate(choices)
    advice = "narrower students want a higher one, up to 1.0e-3" if rate < 1e-3 else "wider students want a lower one"
    return ["training:", f"  epochs: {_epochs(choices, _STUDENT_STEPS, _STUDENT_EPOCHS)}",
            *(f"  {key}: {value}" for key, value in _batch(choices).items()),
            f"  learning_rate: {_line(rate)}  # {advice}"]


def _distillation(choices: Choices) -> dict[str, Any]:
    """Layers are matched where the student has some that correspond to the teacher's."""
    student = choices.student
    has_layers = any(key in student for key in _FROM_TEACHER)
    if choices.task == "sentence-embedding":
        matches = {"layers": "uniform", "losses": ["hidden_mse"]}
        return {"embedding": {"cosine": 1, "relation": 1}, **({"matches": matches} if has_layers else {})}
    if choices.data.get("labels", "single") != "single":
        return {"matches": {"layers": "uniform", "losses": ["hidden_mse"]}} if has_layers else {"loss_weight": 1}
    matches = {"layers": "uniform", "losses": ["hidden_mse", "nst"]}
    return {"temperature": 8, **({"matches": matches} if has_layers else {})}


def _student_rate(choices: Choices) -> float:
    if "network" in choices.student:
        return 1e-3
    shape = choices.student.get("shape")
    if shape in _NARROW_STUDENTS:
        return _NARROW_STUDENTS[shape]
    if "model" in choices.student:
        return 1e-4
    return 1e-4 if choices.teacher_width > _NARROW else 4e-4


def _batch(choices: Choices) -> dict[str, int]:
    return {"batch_size": _BATCH[choices.task]} if choices.task in _BATCH else {}


def _epochs(choices: Choices, steps: int, limits: tuple[int, int]) -> int:
    """So many epochs that there are about ``steps`` steps, within limits."""
    batch = _BATCH.get(choices.task, 32)
    low, high = limits
    return max(low, min(high, round(steps * batch / max(1, choices.num_rows))))


def _config(model: str) -> dict[str, Any]:
    """A model's configuration, if it is on this machine; nothing of it is loaded or fetched."""
    try:
        found = json.loads((Path(resolved(model)).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, ConfigError):
        return {}
    return found if isinstance(found, dict) else {}
