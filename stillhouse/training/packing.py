"""Nested Python values with tensors inside, as safetensors plus JSON: checkpoints without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stillhouse.errors import CheckpointError


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors as safetensors; tensors that share memory are written one by one."""
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, path, metadata={"format": "pt"})
    with path.open("rb") as file:
        os.fsync(file.fileno())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises `CheckpointError` if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def save_nested(value: Any, folder: Path, name: str) -> None:
    """Write ``name.json`` and ``name.safetensors``. Raises `CheckpointError` for what neither can hold."""
    tensors: dict[str, Tensor] = {}
    structure = _pack(value, tensors, name)
    save_tensors(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(structure), encoding="utf-8")


def load_nested(folder: Path, name: str) -> Any:
    """Read what `save_nested` wrote. Raises `CheckpointError`."""
    try:
        structure = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name}.json cannot be read: {error}") from error
    return _unpack(structure, load_tensors(folder / f"{name}.safetensors"))


def _pack(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """Containers become tagged lists, so that tuples, integer keys and dictionaries come back as they were."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return ["tensor", path]
    if isinstance(value, Mapping):
        return ["dict", [[key, _pack(item, tensors, f"{path}.{key}")] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        tag = "tuple" if isinstance(value, tuple) else "list"
        return [tag, [_pack(item, tensors, f"{path}.{i}") for i, item in enumerate(value)]]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise CheckpointError(f"{path} is a {type(value).__name__}, which a checkpoint cannot hold: it keeps tensors, "
                          "numbers, texts, lists and dictionaries, and never pickles")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    tag, content = value
    if tag == "tensor":
        return tensors[content]
    if tag == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if tag == "tuple" else items
