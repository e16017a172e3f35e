"""Where the keys of a recipe stand, for those who write one elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.errors import nearest
from stillhouse.recipe.distillation_schema import DistillationSection
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.training_schema import StudentTraining
from stillhouse.sections import Section
from stillhouse.tasks import TASKS

SECTIONS: Mapping[str, type[Section]] = {"training": StudentTraining, "distillation": DistillationSection}
"""The sections that say what the student learns, and how; the same in any task."""
_OTHER_SECTIONS = ("teacher", "student", "data")


def place_of(name: str) -> str | None:
    """The dotted path of the key that is called so, or nearly so: ``training.epochs`` of ``epoch``; None without one.

    A key of the recipe itself goes before one of a section, and a section of `SECTIONS` before the data of any task. Of
    a section itself it is ``training.KEY``.
    """
    places = {key: f"data.{key}" for task in TASKS.values() for key in task.data.model_fields}
    for section, model in SECTIONS.items():
        places |= {key: f"{section}.{key}" for key in model.model_fields}
    places |= {key: key for key in Recipe.model_fields}
    places |= {section: f"{section}.KEY" for section in (*_OTHER_SECTIONS, *SECTIONS)}
    near = nearest(name, places)
    return None if near is None else places[near]
