"""What pydantic finds wrong with a section, as lines for people: where, what was given, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stillhouse.errors import ConfigError, nearest

Loc = tuple[int | str, ...]
Resolve = Callable[[Loc], "type[BaseModel] | None"]
"""Which model stands at a place whose kind depends on the values beside it; None for any other place."""


def config_error(error: ValidationError, model: type[BaseModel], where: str,
                 resolve: Resolve = lambda loc: None) -> ConfigError:
    """One `ConfigError` that lists every problem on a line of its own."""
    def model_at(loc: Loc) -> type[BaseModel] | None:
        return _model_at(model, loc, resolve)

    problems = error.errors(include_url=False)
    # The top level repeats its last stage, so a stage's problems would be told twice.
    in_stages = {problem["loc"][2:] for problem in problems if problem["loc"][:1] == ("stages",)}
    lines = [_line(problem, model_at) for problem in problems if problem["loc"] not in in_stages]
    if len(lines) == 1:
        return ConfigError(f"{where}: {lines[0]}")
    return ConfigError(f"{where} has {len(lines)} problems:\n" + "\n".join(f"  {line}" for line in lines))


def _line(problem: ErrorDetails, model_at: Resolve) -> str:
    path = ".".join(map(str, problem["loc"]))
    kind, given, message = problem["type"], problem["input"], problem["msg"]
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
        return f"{path}: {text}" if path else text
    if kind == "extra_forbidden":
        return f"{path}: {unknown_key(str(problem['loc'][-1]), _fields_at(model_at, problem['loc'][:-1]))}"
    if kind == "missing":
        return f"{path}: missing; {_purpose(model_at, problem['loc'])}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{path}: {given!r} is not a section; known keys: {', '.join(_fields_at(model_at, problem['loc']))}"
    if kind == "tuple_type":
        return f"{path}: {given!r} is not a list; write [..., ...], or lines that start with a dash"
    if kind == "literal_error":
        allowed = problem.get("ctx", {}).get("expected", "")
        near = nearest(given, re.findall("'([^']+)'", allowed))
        return f"{path}: {given!r} is not one of {allowed}" + (f"; did you mean {near!r}?" if near else "")
    return f"{path}: {given!r}: {message[:1].lower()}{message[1:]}"


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that a section does not have."""
    near = nearest(key, known)
    hint = f"; did you mean {near!r}?" if near else "."
    return f"unknown key{hint} Known: {', '.join(known)}"


def _fields_at(model_at: Resolve, loc: Loc) -> list[str]:
    found = model_at(loc)
    return list(found.model_fields) if found else []


def _model_at(model: type[BaseModel], loc: Loc, resolve: Resolve) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for end, part in enumerate(loc, start=1):
        if isinstance(part, str) and current is not None:
            field = current.model_fields.get(part)
            current = resolve(loc[:end]) or (_section_in(field.annotation) if field else None)
    return current


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside ``X``, ``X | None`` or ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _purpose(model_at: Resolve, loc: Loc) -> str:
    section = model_at(loc[:-1])
    field = section.model_fields.get(str(loc[-1])) if section else None
    description = (field.description if field else None) or "it must be given"
    return description.split("\n\n")[0].replace("\n", " ")
