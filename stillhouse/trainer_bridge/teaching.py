"""Who teaches, from whatever was given, and where the answers are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillhouse.adaptors import Adaptor, FunctionAdaptor, HuggingFaceAdaptor, ModuleOutputs
from stillhouse.cache_use import note_use
from stillhouse.errors import PlanError
from stillhouse.teachers import CachedTeacher, EnsembleTeacher, LiveTeacher, NoTeacher, TeacherSource
from stillhouse.teachers.stores import MemoryStore, SignalStore, WriteBehindStore

AnyAdaptor = Adaptor | Callable[[Any, Any], Mapping[str, Any]]
"""An adaptor, or a function of (batch, outputs) as the paper has it."""


def adaptor_of(given: AnyAdaptor | None, model: nn.Module, by_module: bool) -> Adaptor:
    """The adaptor given, or the automatic one; ``by_module`` adds the outputs of modules that losses name.

    Raises `PlanError` if none is given and the model's class does not tell what it predicts.
    """
    if given is None:
        adaptor: Adaptor = HuggingFaceAdaptor.for_model(model)
    else:
        adaptor = given if isinstance(given, Adaptor) else FunctionAdaptor(given)
    return ModuleOutputs(adaptor) if by_module else adaptor


def models_of(given: Any) -> list[nn.Module]:
    """The models among what was given as teacher: a model, a source, a list of such, or None.

    Raises `PlanError` for anything else.
    """
    parts = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
    for part in parts:
        if not isinstance(part, (nn.Module, TeacherSource)):
            raise PlanError(f"teacher is a {type(part).__name__}; give a model (from_pretrained), a "
                            "stillhouse.TeacherSource, a list of these, or None")
    models = [part.model if isinstance(part, LiveTeacher) else part for part in parts]
    return [model for model in models if isinstance(model, nn.Module)]


def source_of(given: Any, adaptor: AnyAdaptor | None, *, device: torch.device, autocast_dtype: torch.dtype | None,
              by_module: bool) -> TeacherSource:
    """The source behind what was given (see `models_of`); models are brought to the device."""
    if given is None:
        return NoTeacher()
    if isinstance(given, (list, tuple)):
        return EnsembleTeacher([source_of(one, adaptor, device=device, autocast_dtype=autocast_dtype,
                                          by_module=by_module) for one in given])
    if isinstance(given, TeacherSource):
        return given
    return LiveTeacher(_placed(given, device), adaptor_of(adaptor, given, by_module), autocast_dtype)


def cached(source: TeacherSource, cache: str | Path, dtype: torch.dtype | None) -> TeacherSource:
    """The source with each elementary source in it behind a cache. Raises `StoreError`.

    ``cache`` is ``off``, ``memory`` or a folder.
    """
    if cache == "off" or isinstance(source, NoTeacher):
        return source
    store = _store(cache)
    return source.map_leaves(lambda leaf: CachedTeacher(leaf, store, dtype))


def _store(cache: str | Path) -> SignalStore:
    if cache == "memory":
        return MemoryStore()
    from stillhouse.teachers.stores import LmdbStore

    folder = Path(cache).expanduser()
    store = WriteBehindStore(LmdbStore(folder))
    note_use(folder, {"teacher": "of a DistillationTrainer"})
    return store


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    """On the device, unless the model was spread over devices, or quantised, when it was loaded."""
    is_placed = getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)
    return model if is_placed else model.to(device)
