"""An adaptor by module path, for models that return only logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from stillhouse.adaptors.base import Adaptor, Signals, call_model, masks_from_features
from stillhouse.errors import OutputError, PlanError, unknown_name
from stillhouse.types import ALL_LOGITS, LABELS, LOGITS, Key, Masks


class ModulePathAdaptor(Adaptor):
    """Takes hidden states from the outputs of named sub-modules, by forward hooks that live for one forward.

    ``ModulePathAdaptor(hidden=["embedding", "encoder.0", "encoder.1"])`` makes the output of ``model.encoder[0]`` the
    tensor ``Key("hidden", 1)``. A module that returns a tuple counts by its first element. The model's own output is
    the logits: a tensor, the first of a tuple, or ``.logits`` / ``["logits"]``.

    Args:
        hidden: dotted module names, in layer order.
        attention: dotted names of modules that return attention maps, in layer order.
        masks: ``masks(inputs) -> dict`` of (rows, positions) masks named ``inputs``, ``logits`` and ``labels``. Without
            it, an ``attention_mask`` among the inputs is used, else every position counts.
        labels: ``labels(inputs) -> tensor``; without it, ``inputs["labels"]``, which the model then does not see.
        version: names this translation for the disk cache.
    """

    def __init__(
        self,
        hidden: Sequence[str] = (),
        attention: Sequence[str] = (),
        masks: Callable[[Any], Mapping[str, Tensor]] | None = None,
        labels: Callable[[Any], Tensor] | None = None,
        version: str | None = None,
    ) -> None:
        self.paths = {Key("hidden", i): path for i, path in enumerate(hidden)}
        self.paths |= {Key("attention", i): path for i, path in enumerate(attention)}
        self._masks, self._labels = masks, labels
        self.declares_masks = masks is not None
        self.fingerprint = None if version is None else f"module-path/1 {list(hidden)} {list(attention)} {version}"

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        wanted = {key: self.paths[key] for key in keys if key in self.paths}
        with _captured(model, wanted) as features:
            outputs = call_model(model, self._without_labels(inputs), extra)
        if keys & {LOGITS, ALL_LOGITS}:
            features[LOGITS] = _logits(outputs)
        labels = self._labels_of(inputs)
        if labels is not None:
            features[LABELS] = labels
        if self._masks is not None:
            return Signals(features, self.masks(inputs))
        given = {}
        if isinstance(inputs, Mapping) and "attention_mask" in inputs:
            given = {"inputs": inputs["attention_mask"], "logits": inputs["attention_mask"]}
        return Signals(features, masks_from_features(features, given))

    def masks(self, inputs: Any) -> Masks:
        return super().masks(inputs) if self._masks is None else self._masks(inputs)

    def check(self, model: nn.Module, keys: frozenset[Key]) -> None:
        known = {name for name, _ in model.named_modules()}
        for path in self.paths.values():
            if path not in known:
                raise PlanError(unknown_name(f"module of {type(model).__name__}", path, known))
        for key in keys - {LOGITS, ALL_LOGITS, LABELS}:
            if key not in self.paths:
                raise PlanError(f"{key} is asked for, but the adaptor names only {', '.join(map(str, self.paths))}; "
                                "add its module to ModulePathAdaptor")

    def _without_labels(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping) and self._labels is None:
            return {name: value for name, value in inputs.items() if name != "labels"}
        return inputs

    def _labels_of(self, inputs: Any) -> Tensor | None:
        if self._labels is not None:
            return self._labels(inputs)
        return inputs.get("labels") if isinstance(inputs, Mapping) else None


@contextmanager
def _captured(model: nn.Module, wanted: Mapping[Key, str]) -> Iterator[dict[Key, Tensor]]:
    """A dictionary that the forward inside fills with the outputs of the wanted modules."""
    features: dict[Key, Tensor] = {}

    def hook(key: Key) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            features[key] = output[0] if isinstance(output, (tuple, list)) else output

        return keep

    handles = [model.get_submodule(path).register_forward_hook(hook(key)) for key, path in wanted.items()]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def _logits(outputs: Any) -> Tensor:
    if isinstance(outputs, Mapping):
        outputs = outputs.get("logits")
    elif hasattr(outputs, "logits"):
        outputs = outputs.logits
    elif isinstance(outputs, (tuple, list)):
        outputs = outputs[0]
    if not isinstance(outputs, Tensor):
        raise OutputError(f"the model's output holds no logits: it is {type(outputs).__name__}")
    return outputs
