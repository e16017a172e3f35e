"""Plain recipe values before they are checked: overrides from the command line, and stages filled up."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.errors import ConfigError, unknown_name
from stillhouse.recipe import yaml_files

# A teacher or student is described in one of several ways, so a stage replaces it; other sections are filled up.
_REPLACED_WHOLE = ("teacher", "student")
_NOT_INHERITED = ("stages", "output", "name")
_LENGTHS = ("epochs", "steps")


def apply_override(values: Any, override: str) -> dict[str, Any]:
    """A copy of ``values`` with ``"a.b=value"`` applied. Raises `ConfigError` for a path through a plain value."""
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r}: write PATH=VALUE, as in --set training.epochs=3")
    changed = copy.deepcopy(dict(values)) if isinstance(values, Mapping) else {}
    place: Any = changed
    for i, part in enumerate(parts[:-1]):
        place = _step(place, part, f"--set {override!r}", ".".join(parts[: i + 1]))
    value = yaml_files.parse(text, f"--set {override!r}")
    if isinstance(place, list):
        place[_number(parts[-1], len(place), f"--set {override!r}")] = value
    else:
        place[parts[-1]] = value
    return changed


def _step(place: Any, part: str, where: str, path: str) -> Any:
    """Go one level down, making a missing section."""
    if isinstance(place, list):
        inner = place[_number(part, len(place), where)]
    else:
        if place.get(part) is None:
            place[part] = {}
        inner = place[part]
    if not isinstance(inner, (dict, list)):
        raise ConfigError(f"{where}: {path} is {inner!r}, so nothing can be set inside it")
    return inner


def _number(part: str, length: int, where: str) -> int:
    if not part.isdigit() or int(part) >= length:
        raise ConfigError(f"{where}: {part!r} should be a number from 0 to {length - 1}, a place in the list")
    return int(part)


def only_stage(values: Any, name: str, where: str) -> dict[str, Any]:
    """One stage as a recipe without stages: filled up, with the output that it has in the whole.

    ``{run: EARLIER}`` becomes the folder in which that stage leaves its student. Raises `ConfigError` for a name that
    no stage has, and for stages that cannot be filled up.
    """
    stages = values.get("stages") if isinstance(values, Mapping) else None
    if not stages:
        raise ConfigError(f"{where}: --stage {name}: the recipe has no stages; leave --stage out")
    try:
        filled = merge_stages(values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if filled is values:  # of the wrong kind, and left for the check that follows
        return dict(values)
    found = {stage["name"]: stage for stage in filled["stages"]}
    if name not in found:
        raise ConfigError(f"{where}: {unknown_name('stage', name, found)}")
    return dict(found[name])


def plugin_files(values: Any) -> list[str]:
    """The files under ``plugins``, of the recipe and of its stages; what is no list of texts is left to the check."""
    if not isinstance(values, Mapping):
        return []
    stages = values.get("stages")
    places = [values, *(stages if isinstance(stages, list) else [])]
    lists = [place.get("plugins") for place in places if isinstance(place, Mapping)]
    return [path for paths in lists if isinstance(paths, list) for path in paths if isinstance(path, str)]


def merge_stages(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fill every stage up with the top-level keys, and the top level with the last stage's.

    A stage's output is ``OUTPUT/NAME`` unless it gives its own; ``{run: NAME}`` becomes
    ``{model: OUTPUT/NAME/student}``.
    Values of the wrong kind are left for the check that follows. Raises ValueError for what only this can see.
    """
    stages = values.get("stages")
    if not isinstance(stages, (list, tuple)) or not all(isinstance(stage, Mapping) for stage in stages) or not stages:
        return values
    shared = {key: value for key, value in values.items() if key not in _NOT_INHERITED}
    students: dict[str, str] = {}
    outputs = {"the recipe itself": values.get("output")}
    merged_stages = []
    for number, stage in enumerate(stages):
        where = f"stages.{number}"
        merged = _merged(shared, stage)
        name = merged.get("name")
        if not isinstance(name, str) or not name or "/" in name or name in students:
            raise ValueError(f"{where}.name: {name!r}: every stage needs a name of its own, without '/'")
        if merged.get("stages"):
            raise ValueError(f"{where}.stages: stages cannot have stages; list them one after another")
        merged.setdefault("output", f"{values.get('output')}/{name}")
        _require_own_folder(merged["output"], outputs, where)
        outputs[f"stage {name}"] = merged["output"]
        for section in _REPLACED_WHOLE:
            merged[section] = _without_run(merged.get(section), students, f"{where}.{section}")
        students[name] = f"{merged['output']}/student"
        merged_stages.append({key: value for key, value in merged.items() if value is not None})
    last = {key: value for key, value in merged_stages[-1].items() if key not in _NOT_INHERITED}
    return {**last, **{key: values[key] for key in ("output", "name") if key in values}, "stages": merged_stages}


def _merged(shared: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(shared))
    for key, value in stage.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key not in _REPLACED_WHOLE
        merged[key] = {**_without_rivals(merged[key], value), **value} if both else value
    return merged


def _without_rivals(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The shared section without a length of training that the stage's own length stands instead of."""
    rivals = _LENGTHS if any(own.get(length) is not None for length in _LENGTHS) else ()
    return {key: value for key, value in shared.items() if key not in rivals}


def _require_own_folder(output: Any, others: Mapping[str, Any], where: str) -> None:
    for owner, other in others.items():
        if isinstance(output, str) and isinstance(other, str) and _absolute(output) == _absolute(other):
            raise ValueError(f"{where}.output: {output!r} is the folder of {owner} too; every stage needs a folder of "
                             "its own, so name another or leave it out")


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _without_run(section: Any, students: Mapping[str, str], where: str) -> Any:
    if not isinstance(section, Mapping) or section.get("run") is None:
        return section
    name = section["run"]
    if name not in students:
        raise ValueError(f"{where}.run: {name!r} is not an earlier stage; there is {', '.join(students) or 'none'}")
    if section.get("model") is not None:
        raise ValueError(f"{where}: give either model or run")
    return {**{key: value for key, value in section.items() if key != "run"}, "model": students[name]}
