"""The adaptor for masked language models: logits of the selected positions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stillhouse.adaptors.base import Adaptor, Signals
from stillhouse.adaptors.hugging_face import HuggingFaceAdaptor
from stillhouse.errors import OutputError, PlanError
from stillhouse.types import LABELS, LOGITS, Features, Key, Masks


class MaskedLMAdaptor(Adaptor):
    """Reads a masked language model's logits where tokens are to be predicted, about one token in seven.

    Those positions are where ``labels`` of (B, L) are not negative, and where ``logits_mask`` of (B, L) is not 0 if the
    batch has one. Of each row they are moved together: logits are (B, P, V) and labels (B, P), P being the most of any
    row of the batch; the masks ``logits`` and ``labels`` are (B, P) and say which of these places hold one. The hidden
    states are gathered before the model's output embeddings, so that it computes no other logits; a family whose
    output embeddings are no module of their own computes all, and the same ones are taken.

    Everything else is as in `HuggingFaceAdaptor`. The logits depend on which positions are selected, so a cache of rows
    cannot keep them, and says so.
    """

    declares_masks = True
    fingerprint = "masked-lm/1"

    def __init__(self) -> None:
        self._model = HuggingFaceAdaptor("tokens")

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        selected = _selected(inputs)
        with _gathering(model, selected) as gathered:
            found = self._model.run(model, inputs, keys, extra).features
        features: dict[Key, Tensor] = dict(found)
        if LOGITS in found and not gathered:
            features[LOGITS] = selected.of(found[LOGITS])
        if LABELS in found:
            features[LABELS] = selected.labels(found[LABELS])
        _require_selected(features, selected)
        return Signals(features, self._masks(inputs, selected))

    def masks(self, inputs: Any) -> Masks:
        return self._masks(inputs, _selected(inputs))

    def _masks(self, inputs: Mapping[str, Any], selected: _Selected) -> Masks:
        masks = {"inputs": self._model.masks(inputs)["inputs"], "logits": selected.kept_BP}
        predicted, labels = inputs.get("logits_mask"), inputs.get("labels")
        if predicted is not None:
            masks["logits"] = selected.of(predicted).ne(0) & selected.kept_BP
        if labels is not None:
            masks["labels"] = selected.labels(labels).ge(0)
        return masks

    def check(self, model: nn.Module, keys: frozenset[Key], *, is_trained: bool = False) -> None:
        if not type(model).__name__.endswith("ForMaskedLM"):
            raise PlanError(f"{type(model).__name__} is no masked language model; give one whose class name ends in "
                            "ForMaskedLM")
        self._model.check(model, keys, is_trained=is_trained)

    def width(self, model: nn.Module, key: Key) -> int | None:
        config: Any = model.config
        return int(config.vocab_size) if key.kind == "logits" else self._model.width(model, key)


class _Selected(NamedTuple):
    """Which positions are predicted, moved together to the left of each row, and which of these places hold one."""

    positions_BP: Tensor
    kept_BP: Tensor
    length: int

    def of(self, values: Tensor) -> Tensor:
        """(B, L, ...) as (B, P, ...)."""
        rows_B1 = torch.arange(len(values), device=values.device).unsqueeze(1)
        taken: Tensor = values[rows_B1, self.positions_BP.to(values.device)]
        return taken

    def labels(self, labels_BL: Tensor) -> Tensor:
        """(B, P); -100 in places that hold nothing."""
        return self.of(labels_BL).masked_fill(~self.kept_BP, -100)


def _counted(labels: Tensor) -> Tensor:
    return labels.ge(0)


def _kept(mask: Tensor) -> Tensor:
    return mask.ne(0)


def _selected(inputs: Any) -> _Selected:
    """Raises `OutputError` for a batch that does not say which."""
    given = inputs if isinstance(inputs, Mapping) else {}
    chosen = [marks(given[name]) for name, marks in (("labels", _counted), ("logits_mask", _kept))
              if given.get(name) is not None]
    if not chosen or any(selected.dim() != 2 for selected in chosen):
        raise OutputError("a batch for a masked language model says which tokens are predicted: labels of (rows, "
                          "positions), negative elsewhere, or a logits_mask of that shape")
    selected_BL = torch.stack(chosen).any(dim=0)
    counts_B1 = selected_BL.sum(dim=1, keepdim=True)
    most = max(1, int(counts_B1.max()))
    positions_BP = selected_BL.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    kept_BP = torch.arange(most, device=selected_BL.device) < counts_B1
    return _Selected(positions_BP, kept_BP, selected_BL.shape[1])


@contextmanager
def _gathering(model: nn.Module, selected: _Selected) -> Iterator[list[bool]]:
    """Inside, the model's output embeddings see the selected positions alone; the list is empty until they did.

    Heads work on each position by itself, so that nothing else changes.
    """
    done: list[bool] = []

    def gather(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not arguments or not _covers(arguments[0], selected):
            return None
        done.append(True)
        return (selected.of(arguments[0]), *arguments[1:])

    output: Any = model.get_output_embeddings()  # type: ignore[operator]
    handle = output.register_forward_pre_hook(gather) if isinstance(output, nn.Module) else None
    try:
        yield done
    finally:
        if handle is not None:
            handle.remove()


def _covers(states: Any, selected: _Selected) -> bool:
    shape = (len(selected.positions_BP), selected.length)
    return isinstance(states, Tensor) and states.dim() == 3 and states.shape[:2] == shape


def _require_selected(features: Features, selected: _Selected) -> None:
    """Raise `OutputError` if the model's logits are not one vector for each selected position."""
    logits = features.get(LOGITS)
    if logits is not None and (logits.dim() != 3 or logits.shape[:2] != selected.positions_BP.shape):
        raise OutputError(f"the model gave logits of {tuple(logits.shape)} for {len(selected.positions_BP)} rows and "
                          f"{selected.positions_BP.shape[1]} predicted positions; this is no masked language model")
