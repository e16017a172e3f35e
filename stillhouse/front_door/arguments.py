"""Which keyword of `distill` belongs where in a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stillhouse.errors import ConfigError, nearest, unknown_name
from stillhouse.recipe import Recipe
from stillhouse.recipe.places import SECTIONS
from stillhouse.tasks import TASKS

_SPLITS = ("train", "validation", "test")
_NOT_HERE = {"stages", "name"}
"""What only a recipe with several stages has."""


def require_task(task: Any) -> None:
    """Raise `ConfigError` for what is no task."""
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(unknown_name("task", task, TASKS))


def sorted_settings(task: str, settings: Mapping[str, Any], data: Mapping[str, Any] | None,
                    keywords: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings as keys of a recipe, and as keys of its section ``data``, to which ``data`` belongs as it is.

    ``keywords`` are those that are not among the settings, for messages. Raises `ConfigError` for a setting that
    belongs to neither, or that ``data`` has as well.
    """
    columns = dict(_mapping(data, "data"))
    for split in _SPLITS:
        if split in columns:
            raise ConfigError(f"data: {split}={columns[split]!r:.80}: splits are given beside data, as {split}=...")
    of_data = set(TASKS[task].data.model_fields) - set(_SPLITS)
    of_recipe = set(Recipe.model_fields) - set(keywords) - _NOT_HERE
    top: dict[str, Any] = {}
    for name, value in settings.items():
        if name in of_data and name in columns:
            raise ConfigError(f"{name} is given twice, as {name}={value!r:.80} and in data ({columns[name]!r:.80}); "
                              "leave one out")
        if name in of_data:
            columns[name] = value
        elif name in of_recipe:
            top[name] = value
        else:
            raise ConfigError(_unknown(name, value, task, [*keywords, *of_recipe, *of_data]))
    return top, columns


def with_seed(training: Mapping[str, Any] | None, seed: int | None) -> dict[str, Any]:
    """The section ``training``. Raises `ConfigError` if both say which seed."""
    section = dict(_mapping(training, "training"))
    if seed is not None and "seed" in section:
        raise ConfigError(f"seed is given twice, as seed={seed!r} and in training ({section['seed']!r}); leave one out")
    return section if seed is None else {**section, "seed": seed}


def label_columns(task: str, columns: Mapping[str, Any]) -> list[str]:
    """The columns with what is right, as they are called in the user's data."""
    fields = TASKS[task].data.model_fields
    return [str(columns.get(name, fields[name].default)) for name in TASKS[task].label_columns if name in fields]


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{name}: {value!r:.80} is of type {type(value).__name__}; give a mapping, with the "
                          f"keys that a recipe's section {name} has")
    return value or {}


def _unknown(name: str, value: Any, task: str, known: Iterable[str]) -> str:
    inside = {key: section for section, model in SECTIONS.items() for key in model.model_fields}
    if name in inside:
        return f"{name}: that is a setting of {inside[name]}; write {inside[name]}={{{name!r}: {value!r:.80}}}"
    if name in _NOT_HERE:
        return (f"unknown keyword {name!r}: only a recipe with several stages has it; leave it out, or write a recipe "
                "and run it with stillhouse run")
    others = sorted(other for other, found in TASKS.items() if name in found.data.model_fields)
    if others:
        return f"{name}: the data of {task} has no such key; it is one of {', '.join(others)}"
    keywords = list(known)
    near = nearest(name, [*keywords, *inside])
    if near in inside:
        return (f"unknown keyword {name!r}: did you mean {near!r}? That is a setting of {inside[near]}; write "
                f"{inside[near]}={{{near!r}: {value!r:.80}}}")
    return unknown_name("keyword", name, keywords)
