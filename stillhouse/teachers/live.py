"""A teacher that is a model in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, final

import torch
from torch import nn

from stillhouse.adaptors import Adaptor, FunctionAdaptor
from stillhouse.batches import bytes_of, num_rows, to_device
from stillhouse.errors import PlanError
from stillhouse.modes import device_of, evaluation
from stillhouse.teachers.base import TeacherSource
from stillhouse.types import Batch, Features, Key


@final
class LiveTeacher(TeacherSource):
    """Runs a model: in eval mode, without a graph, on the model's own device.

    It uses ``no_grad`` and not ``inference_mode``, whose tensors could not be saved for the student's backward.
    ``requires_grad`` of the model is never changed.

    Args:
        model: the teacher.
        adaptor: translates its outputs.
        autocast_dtype: run the forward under autocast with this dtype (``torch.bfloat16``), or in the model's own
            precision.
        identity: names the model, in place of a hash of its weights, where these are packed.
    """

    def __init__(self, model: nn.Module, adaptor: Adaptor, autocast_dtype: torch.dtype | None = None,
                 identity: str | None = None) -> None:
        self.model, self.adaptor, self.autocast_dtype, self._identity = model, adaptor, autocast_dtype, identity
        self._rows_forwarded = 0

    @cached_property
    def fingerprint(self) -> str | None:
        """Weights, buffers, configuration, precision, attention implementation, adaptor; None without an adaptor's."""
        if self.adaptor.fingerprint is None:
            return None
        return f"{self._identity or model_fingerprint(self.model)} {self.autocast_dtype} {self.adaptor.fingerprint}"

    @property
    def rows_forwarded(self) -> int:
        return self._rows_forwarded

    def check(self, keys: frozenset[Key]) -> None:
        self.adaptor.check(self.model, keys)

    def width(self, key: Key) -> int | None:
        return self.adaptor.width(self.model, key)

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        if not keys:
            return {}
        device = device_of(self.model)
        inputs = to_device(batch.teacher, device)
        if batch.teacher_outputs is not None:
            return self._adapt_given(inputs, to_device(batch.teacher_outputs, device), keys)
        self._rows_forwarded += num_rows(inputs) or 1
        enabled = self.autocast_dtype is not None
        with torch.no_grad(), evaluation(self.model), torch.autocast(device.type, self.autocast_dtype, enabled=enabled):
            return self.adaptor.run(self.model, inputs, keys, extra or {}).features

    def _adapt_given(self, inputs: Any, outputs: Any, keys: frozenset[Key]) -> Features:
        if not isinstance(self.adaptor, FunctionAdaptor):
            raise PlanError("batches with 'teacher_cache' need a function adaptor for the teacher: "
                            f"{type(self.adaptor).__name__} runs the model itself")
        with torch.no_grad():
            return self.adaptor.adapt(inputs, outputs, keys).features


def model_fingerprint(model: nn.Module) -> str:
    """A hash of a model's class, configuration, dtypes, weights and buffers, as 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{type(model).__module__}.{type(model).__qualname__}\n".encode())
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        settings = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
        settings["attention"] = getattr(config, "_attn_implementation", None)
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
