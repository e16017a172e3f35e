"""YAML as people expect it: ``2e-4`` is a number, ``off`` and ``no`` are words, a key given twice is an error.

The YAML library follows version 1.1 of the language, which reads ``2e-4`` as a text, ``off`` as false and
``2024-01-01`` as a date. Here numbers, booleans and dates are those of version 1.2.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from stillhouse.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_REPLACED = {_TAG + "bool", _TAG + "float", _TAG + "timestamp"}


class _Loader(yaml.SafeLoader):
    """The safe loader with its own table of what plain words mean."""


class _Dumper(yaml.SafeDumper):
    """The safe dumper; it quotes what either version of the language would not read as a text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Repeat equal values instead of pointing at the first."""
        return True


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == _TAG + "merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in _REPLACED]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_WHOLE_FLOAT = re.compile(f"^(?:{_FLOAT.pattern})$")
_Loader.add_implicit_resolver(_TAG + "bool", re.compile(f"^(?:{_BOOL.pattern})$"), list("tTfF"))
_Loader.add_implicit_resolver(_TAG + "float", _WHOLE_FLOAT, list("-+0123456789."))
_Loader.add_constructor(_TAG + "map", _mapping)
_Dumper.add_implicit_resolver(_TAG + "float", _WHOLE_FLOAT, list("-+0123456789."))


def parse(text: str, where: str) -> Any:
    """The value of a YAML text. Raises `ConfigError` that names ``where``, line and column."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place} is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error


def read(path: Path) -> Any:
    """The value in a YAML file. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}; give the path of a recipe (a relative one is looked up from "
                          f"{Path.cwd()})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return parse(text, str(path))


def dump_line(value: Any) -> str:
    """The same on one line: ``{shape: T3}``."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True,
                     width=float("inf")).strip()


def dump(value: Any) -> str:
    """A plain value as YAML, in its own order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
