"""Tensors from named sub-modules: all of a model's, where it returns only logits, or some beside another adaptor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from stillhouse.adaptors.base import Adaptor, AdaptorAround, Signals, call_model, log_probabilities, masks_from_features
from stillhouse.errors import OutputError, PlanError, nearest
from stillhouse.types import ALL_LOGITS, ATTENTION_SCORES, LABELS, LOGITS, Key, Masks, module_path


class ModulePathAdaptor(Adaptor):
    """Takes hidden states from the outputs of named sub-modules, by forward hooks that live for one forward.

    ``ModulePathAdaptor(hidden=["embedding", "encoder.0", "encoder.1"])`` makes the output of ``model.encoder[0]`` the
    tensor ``Key("hidden", 1)``. A module that returns a tuple counts by its first element. The model's own output is
    the logits: a tensor, the first of a tuple, or ``.logits`` / ``["logits"]``.

    Args:
        hidden: dotted module names, in layer order.
        attention: dotted names of modules that return attention maps of probabilities, in layer order.
        attention_scores: dotted names of modules that return attention scores, before the softmax; without them, the
            logarithm of the probabilities stands in where a loss asks for scores.
        masks: ``masks(inputs) -> dict`` of (rows, positions) masks named ``inputs``, ``logits`` and ``labels``. Without
            it, an ``attention_mask`` among the inputs is used, else every position counts.
        labels: ``labels(inputs) -> tensor``; without it, ``inputs["labels"]``, which the model then does not see.
        version: names this translation for the disk cache.
    """

    def __init__(
        self,
        hidden: Sequence[str] = (),
        attention: Sequence[str] = (),
        attention_scores: Sequence[str] = (),
        masks: Callable[[Any], Mapping[str, Tensor]] | None = None,
        labels: Callable[[Any], Tensor] | None = None,
        version: str | None = None,
    ) -> None:
        self.paths = {Key("hidden", i): path for i, path in enumerate(hidden)}
        self.paths |= {Key("attention", i): path for i, path in enumerate(attention)}
        self.paths |= {Key(ATTENTION_SCORES, i): path for i, path in enumerate(attention_scores)}
        self._masks, self._labels = masks, labels
        self.declares_masks = masks is not None
        self.fingerprint = None if version is None else (
            f"module-path/2 {list(hidden)} {list(attention)} {list(attention_scores)} {version}")

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        wanted = {self._source(key): self.paths[self._source(key)] for key in keys if self._source(key) in self.paths}
        with captured(model, wanted) as features:
            outputs = call_model(model, self._without_labels(inputs), extra)
        _require_reached(model, wanted, features)
        features.update({key: log_probabilities(features[self._source(key)])
                         for key in keys if self._source(key) != key})
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

    def check(self, model: nn.Module, keys: frozenset[Key], *, is_trained: bool = False) -> None:
        require_modules(model, self.paths.values())
        for key in keys - {LOGITS, ALL_LOGITS, LABELS}:
            if self._source(key) not in self.paths:
                raise PlanError(f"{key} is asked for, but the adaptor names only {', '.join(map(str, self.paths))}; "
                                "add its module to ModulePathAdaptor")

    def _source(self, key: Key) -> Key:
        """The tensor that a key is made from: itself, or the probabilities that scores are the logarithm of."""
        return Key("attention", key.index) if key.kind == ATTENTION_SCORES and key not in self.paths else key

    def _without_labels(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping) and self._labels is None:
            return {name: value for name, value in inputs.items() if name != "labels"}
        return inputs

    def _labels_of(self, inputs: Any) -> Tensor | None:
        if self._labels is not None:
            return self._labels(inputs)
        return inputs.get("labels") if isinstance(inputs, Mapping) else None


class ModuleOutputs(AdaptorAround):
    """Another adaptor, and beside what it gives, the outputs of sub-modules asked for by `stillhouse.types.module_key`.

    Masks, fingerprint and everything else are the inner adaptor's. A module that returns a tuple counts by its first
    element.
    """

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        paths = _module_paths(keys)
        with captured(model, paths) as outputs:
            features, masks = self.inner.run(model, inputs, keys - paths.keys(), extra)
        _require_reached(model, paths, outputs)
        if "inputs" in masks:
            return Signals({**features, **outputs}, masks)
        return Signals({**features, **outputs}, {**masks_from_features(outputs, {}), **masks})

    def check(self, model: nn.Module, keys: frozenset[Key], *, is_trained: bool = False) -> None:
        paths = _module_paths(keys)
        require_modules(model, paths.values())
        self.inner.check(model, keys - paths.keys(), is_trained=is_trained)

    def width(self, model: nn.Module, key: Key) -> int | None:
        path = module_path(key)
        if path is None:
            return self.inner.width(model, key)
        module = model.get_submodule(path)
        return module.out_features if isinstance(module, nn.Linear) else None


def _module_paths(keys: Iterable[Key]) -> dict[Key, str]:
    return {key: path for key in keys if (path := module_path(key)) is not None}


def require_modules(model: nn.Module, paths: Iterable[str]) -> None:
    """Raise `PlanError` for a path that is no sub-module."""
    known = [name for name, _ in model.named_modules() if name]
    for path in paths:
        if path not in known:
            near = nearest(path, known)
            hint = f"did you mean {near!r}? " if near else ""
            raise PlanError(f"{type(model).__name__} has no module {path!r}; {hint}model.named_modules() lists all "
                            f"{len(known)}")


@contextmanager
def captured(model: nn.Module, wanted: Mapping[Key, str]) -> Iterator[dict[Key, Tensor]]:
    """A dictionary that the forward inside fills with the outputs of the wanted modules."""
    features: dict[Key, Tensor] = {}

    def hook(key: Key) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            features[key] = _tensor_of(output)

        return keep

    handles = [model.get_submodule(path).register_forward_hook(hook(key)) for key, path in wanted.items()]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def _require_reached(model: nn.Module, wanted: Mapping[Key, str], outputs: Mapping[Key, Any]) -> None:
    """Raise `OutputError` for a wanted module that the forward left out, or whose output is no tensor."""
    unreached = [path for key, path in wanted.items() if key not in outputs]
    if unreached:
        raise OutputError(f"the forward of {type(model).__name__} did not reach {', '.join(unreached)}, whose output "
                          "is asked for; name modules that every forward uses")
    for key, path in wanted.items():
        if not isinstance(outputs[key], Tensor):
            raise OutputError(f"{path} of {type(model).__name__} gave {type(outputs[key]).__name__}, not a tensor; "
                              "name a module whose output is a tensor, or a tuple or mapping that starts with one")


def _tensor_of(output: Any) -> Any:
    if isinstance(output, Mapping):
        return next(iter(output.values()), None)
    return output[0] if isinstance(output, (tuple, list)) and output else output


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
