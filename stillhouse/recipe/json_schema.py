"""Recipes as JSON Schema (draft 7), with which editors complete and check them while they are written.

It is made from the sections themselves: their fields, descriptions and defaults. It refuses what is wrong in any
recipe, and knows the short forms. What only the whole of a recipe or the data can show is left to ``stillhouse plan``.
Names that plugins may add to are offered but not insisted on.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stillhouse import presets
from stillhouse.layer_maps import LAYER_MAPS
from stillhouse.match_sets import MATCH_SETS
from stillhouse.recipe import values
from stillhouse.recipe.distillation_schema import DistillationSection, MatchSection
from stillhouse.recipe.models_schema import StudentSection, TeacherSection
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.training_schema import TrainingSettings
from stillhouse.sections import Section
from stillhouse.sections.values import LabelNames, as_tuple, one_or_more
from stillhouse.students.shapes import known_shapes
from stillhouse.tasks import TASKS
from stillhouse.tasks.augmentation import FUNCTIONS, FunctionChoice
from stillhouse.units import BYTES_PATTERN

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_TEXT: Schema = {"type": "string"}
_PLAIN: Mapping[Any, Schema] = {
    str: _TEXT, int: {"type": "integer"}, float: {"type": "number"}, bool: {"type": "boolean"}, Any: {},
}


def schema_text() -> str:
    """The JSON Schema of recipes, as the file that editors read."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def recipe_schema() -> Schema:
    """The JSON Schema of recipes, as plain values."""
    definitions: dict[str, Schema] = {}
    properties = {name: _field(name, field, Recipe, definitions) for name, field in Recipe.model_fields.items()
                  if name not in ("data", "stages")}
    properties["task"] = {**properties["task"], "enum": sorted(TASKS)}
    data = {name: {"$ref": _reference(task.data, definitions)} for name, task in TASKS.items()}
    for name in data:  # a stage says only what differs, so that what a section must have depends on where it stands
        definitions[TASKS[name].data.__name__].pop("required", None)
    properties["data"] = {"type": "object", "description": _words(Recipe.model_fields["data"].description)}
    stage = {
        "type": "object", "properties": properties, "additionalProperties": False, "required": ["name"],
        "allOf": [_if_task(name, {"properties": {"data": section}}) for name, section in data.items()],
    }
    definitions["Stage"] = stage
    stages = {"type": "array", "items": {"$ref": "#/definitions/Stage"},
              "description": _words(Recipe.model_fields["stages"].description)}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of stillhouse",
        "description": _words(Recipe.__doc__),
        "type": "object",
        "properties": {**properties, "stages": stages},
        "additionalProperties": False,
        "required": ["output"],
        "allOf": [_unless_stages(), *(_if_task(name, _here_and_in_stages(section)) for name, section in data.items())],
        "definitions": definitions,
    }


def _unless_stages() -> Schema:
    """Without stages a recipe is complete, and so is its data."""
    sections = [name for name, field in Recipe.model_fields.items() if field.is_required()]
    needed = {name: [key for key, field in task.data.model_fields.items() if field.is_required()]
              for name, task in TASKS.items()}
    complete = [_if_task(name, {"properties": {"data": {"required": keys}}}) for name, keys in needed.items()]
    return {"if": {"properties": {"stages": {"minItems": 1}}, "required": ["stages"]},
            "else": {"required": sections, "allOf": complete}}


def _here_and_in_stages(data: Schema) -> Schema:
    """The data of the recipe, and of each stage that does not name another task."""
    inherits = {"if": {"not": {"required": ["task"]}}, "then": {"properties": {"data": data}}}
    return {"properties": {"data": data, "stages": {"items": inherits}}}


def _if_task(name: str, then: Schema) -> Schema:
    return {"if": {"properties": {"task": {"const": name}}, "required": ["task"]}, "then": then}


# Sections.


def _reference(section: type[Section], definitions: dict[str, Schema]) -> str:
    name = section.__name__
    if name not in definitions:
        definitions[name] = {}  # keeps its place before those that it names itself
        definitions[name] = _section(section, definitions)
    return f"#/definitions/{name}"


def _section(section: type[Section], definitions: dict[str, Schema]) -> Schema:
    found: Schema = {
        "type": "object",
        "description": _words(section.__doc__),
        "properties": {name: _field(name, field, section, definitions)
                       for name, field in section.model_fields.items()},
        "additionalProperties": False,
    }
    required = [name for name, field in section.model_fields.items() if field.is_required()]
    if required:
        found["required"] = required
    with_short_forms = _SHORT_FORMS.get(section)
    return found if with_short_forms is None else with_short_forms(found)


def _field(name: str, field: FieldInfo, section: type[Section], definitions: dict[str, Schema]) -> Schema:
    found = _kind(field.annotation, field.metadata, definitions)
    if "$ref" in found:  # in this draft nothing may stand beside a reference
        found = {"allOf": [found]}
    description = {"description": _words(field.description)}
    if name == "epochs" and issubclass(section, TrainingSettings):
        return {**found, **description, "default": section.default_epochs}
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    if isinstance(default, list) and len(default) == 1:
        default = default[0]  # as people write it
    is_worth_saying = default not in (PydanticUndefined, None, []) and not isinstance(default, Section)
    return {**found, **description, **({"default": default} if is_worth_saying else {})}


def _either_form_of_a_match(schema: Schema) -> Schema:
    losses = schema["properties"]["losses"]
    one = {**losses["items"], "description": "A single one of the losses."}
    return {"anyOf": [{"enum": sorted(MATCH_SETS)}, {
        **schema, "properties": {**schema["properties"], "loss": one}, "required": [],
        "oneOf": [{"required": ["losses"]}, {"required": ["loss"]}],
    }]}


def _with_loose_keys(schema: Schema) -> Schema:
    """Keys of the teacher's configuration may stand in the section itself."""
    shape = {**schema["properties"]["shape"], "anyOf": [{"enum": list(known_shapes())}, _NULL]}
    return {**schema, "properties": {**schema["properties"], "shape": shape}, "additionalProperties": True,
            "minProperties": 1}


def _given_in_one_way(schema: Schema) -> Schema:
    ways = ("model", "models", "run", "column", "function")
    return {**schema, "oneOf": [{"required": [way]} for way in ways]}


def _embedding_by_name(schema: Schema) -> Schema:
    embedding = schema["properties"]["embedding"]
    weights, null = embedding["anyOf"]
    named = {"type": "object", "additionalProperties": False,
             "properties": {name: weights["additionalProperties"] for name in weights["propertyNames"]["enum"]}}
    return {**schema, "properties": {**schema["properties"], "embedding": {**embedding, "anyOf": [named, null]}}}


_SHORT_FORMS: Mapping[type[Section], Callable[[Schema], Schema]] = {
    MatchSection: _either_form_of_a_match,
    StudentSection: _with_loose_keys,
    TeacherSection: _given_in_one_way,
    DistillationSection: _embedding_by_name,
}


# Values.


def _kind(annotation: Any, marks: Iterable[Any], definitions: dict[str, Schema]) -> Schema:
    """The schema of a value: by the function that checks it, if there is one, else by its type."""
    checks = [function for mark in marks if (function := getattr(mark, "func", None)) is not None]
    for function in checks:
        if function in _FORMS:
            return dict(_FORMS[function])
        if function not in (as_tuple, one_or_more):
            raise LookupError(f"{function} checks values of recipes, and json_schema.py does not say what they may be")
    found = _limited(_by_type(annotation, definitions), marks)
    is_one_enough = one_or_more in checks and found.get("minItems", 1) == 1
    return {"anyOf": [found["items"], found]} if is_one_enough else found


def _by_type(annotation: Any, definitions: dict[str, Schema]) -> Schema:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return dict(_PLAIN[annotation])
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return {"$ref": _reference(annotation, definitions)}
    if annotation is type(None):
        return dict(_NULL)
    if origin is Annotated:
        return _kind(inner[0], inner[1:], definitions)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        parts = [_by_type(part, definitions) for part in inner]
        return {"anyOf": [choice for part in parts for choice in (part["anyOf"] if [*part] == ["anyOf"] else [part])]}
    if origin is tuple and inner[1:] == (...,):
        return {"type": "array", "items": _by_type(inner[0], definitions)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = (_by_type(part, definitions) for part in inner)
        return {"type": "object", "propertyNames": key, "additionalProperties": value}
    raise LookupError(f"{annotation} is a kind of value that json_schema.py does not know")


def _limited(schema: Schema, marks: Iterable[Any]) -> Schema:
    """With the limits among the marks; of a value that may be null they are those of the other kind."""
    target = schema["anyOf"][0] if schema.get("anyOf", [])[1:] == [_NULL] else schema
    length = "Items" if target.get("type") == "array" else "Length"
    keys = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum",
            "min_length": f"min{length}", "max_length": f"max{length}"}
    every = [each for mark in marks for each in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
    limits = {key: getattr(each, name) for each in every for name, key in keys.items() if hasattr(each, name)}
    limited = {**target, **limits}
    return limited if target is schema else {**schema, "anyOf": [limited, _NULL]}


def _offered(names: Iterable[str]) -> Schema:
    """Names to choose from, and any that a plugin adds."""
    return {"anyOf": [{"enum": list(names)}, _TEXT]}


def _checker(kind: Any) -> Any:
    """The function that checks this kind of value."""
    return next(mark.func for mark in kind.__metadata__ if getattr(mark, "func", None) not in (None, as_tuple))


_DURATION: Schema = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1},
                               {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(steps?|epochs?)\s*$"}]}
_PAIRS: Schema = {"type": "array", "minItems": 1,
                  "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}}
_WEIGHT: Schema = {"type": "number", "minimum": 0}
_FUNCTION: Schema = {"anyOf": [
    {"enum": list(FUNCTIONS)},
    {"type": "object", "properties": {name: {"type": "object"} for name in FUNCTIONS}, "additionalProperties": False,
     "minProperties": 1, "maxProperties": 1},
]}
_FORMS: Mapping[Any, Schema] = {_checker(kind): form for kind, form in (
    (values.KDLossName, _offered(presets.KD_LOSS_MAP)),
    (values.MatchLossName, _offered(presets.MATCH_LOSS_MAP)),
    (values.ScheduleName, _offered(presets.WEIGHT_SCHEDULER)),
    (values.TeacherFunctionName, _offered(presets.TEACHER_FUNCTIONS) if presets.TEACHER_FUNCTIONS else _TEXT),
    (values.CacheName, _offered(["auto", "off", "memory"])),
    (values.ByteSize, {"anyOf": [{"type": "string", "pattern": BYTES_PATTERN}, _NULL]}),
    (values.Keep, {"anyOf": [{"const": "half"}, {"type": "integer", "minimum": 1}, _NULL]}),
    (values.QuantizationChoice, {"anyOf": [{"enum": list(get_args(values.QuantizationName))},
                                           {"type": "object", "propertyNames": _TEXT, "additionalProperties": {}},
                                           _NULL]}),
    (values.DurationText, _DURATION),
    (values.Layers, {"anyOf": [{"enum": list(LAYER_MAPS)}, _PAIRS]}),
    (values.MatchWeight, {"anyOf": [_WEIGHT, {"type": "object", "additionalProperties": _WEIGHT}]}),
    (values.ProjectionChoice, {"anyOf": [*_offered(presets.PROJ_MAP)["anyOf"],
                                         {"type": "array", "minItems": 3, "maxItems": 3}]}),
    (values.StrategyChoice, {"anyOf": [_TEXT, {"type": "array", "minItems": 1}]}),
    (LabelNames, {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}, _NULL]}),
    (FunctionChoice, _FUNCTION),
)}


def _words(text: str | None) -> str:
    return " ".join((text or "").split())
