"""The automatic adaptor for Hugging Face models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stillhouse.adaptors.base import Adaptor, Signals, call_model, holds_probabilities, labels_mask, log_probabilities
from stillhouse.errors import OutputError, PlanError
from stillhouse.needs import indices
from stillhouse.types import ATTENTION_SCORES, BESIDE_INPUTS, LABELS, LOGITS, Key, Masks

_HEADS: Mapping[str, tuple[str, ...]] = {
    "rows": ("ForSequenceClassification", "ForNextSentencePrediction"),
    "tokens": ("ForTokenClassification", "ForMaskedLM"),
    "spans": ("ForQuestionAnswering",),
    "choices": ("ForMultipleChoice",),
}
END_LOGITS, END_LABELS = Key("logits", 1), Key("labels", 1)
LAST_HIDDEN = Key("last_hidden_state")
"""What a model without a head gives, (B, L, H): its last layer's output, in some families normalised once more."""
_MAPS = ("attention", ATTENTION_SCORES)
_OUTPUTS = {"hidden": "hidden_states", "attention": "attentions", ATTENTION_SCORES: "attentions"}
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
"""What families call the dropout of attention probabilities in their configurations."""


class HuggingFaceAdaptor(Adaptor):
    """Reads logits, hidden states and attention maps of a Hugging Face model; declares its masks.

    Where a batch holds ``logits_mask``, (B, 1) or with one prediction a token (B, L), only these predictions are
    compared with the teacher's; otherwise all that ``attention_mask`` keeps.

    Hidden state 0 is the embedding output. Attention map i is that of layer i + 1; it holds probabilities, and their
    logarithm stands in for the scores that the paper's attention losses work on. The model never sees the labels, so it
    computes no loss of its own; `stillhouse.losses.HardLabels` does.

    Args:
        logits: what the model predicts. ``"rows"``: a class of each row, (B, C). ``"tokens"``: one of each token,
            (B, L, C). ``"choices"``: one of several texts, which are (B, choices, L), so (B, choices). ``"spans"``:
            where an answer starts and where it ends, two heads of (B, L). The labels of these are ``start_positions``
            and ``end_positions``; where ``span_mask`` of (B, L) is 0 no answer can be, and the logits are minus
            infinity.
    """

    declares_masks = True

    def __init__(self, logits: Literal["rows", "tokens", "choices", "spans"]) -> None:
        self.logits = logits
        self.fingerprint = f"hugging-face/1 logits={logits}"
        self._looked_at_maps = False

    @classmethod
    def for_model(cls, model: nn.Module) -> HuggingFaceAdaptor:
        """The adaptor for a model whose class name tells its head. Raises `PlanError` for any other."""
        name = type(model).__name__
        for logits, heads in _HEADS.items():
            if name.endswith(heads):
                return cls(logits)  # type: ignore[arg-type]
        known = ", ".join(head for heads in _HEADS.values() for head in heads)
        raise PlanError(
            f"{name} does not say what it predicts (known heads: {known}); "
            f"if it is like one of these, give HuggingFaceAdaptor(logits=...) with one of {', '.join(_HEADS)}, else a "
            "FunctionAdaptor"
        )

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        arguments = dict(extra) | {"return_dict": True}
        if hidden := indices(keys, "hidden"):
            # Where models know selections, they hold on to these alone; elsewhere it counts as True.
            arguments["output_hidden_states"] = list(hidden)
        if any(key.kind in _MAPS for key in keys):
            arguments["output_attentions"] = True
        if not isinstance(inputs, Mapping):
            raise OutputError("the automatic adaptor reads inputs by name, and this batch is a "
                              f"{type(inputs).__name__}; give dictionaries, or a FunctionAdaptor")
        accepted = _accepted(type(model).forward)
        outputs = call_model(model, {k: v for k, v in inputs.items() if k in accepted - BESIDE_INPUTS}, arguments)
        if indices(keys, ATTENTION_SCORES) and not self._looked_at_maps:
            self._looked_at_maps = True
            _require_probabilities(model, outputs)
        features = {key: _pick(outputs, key) for key in keys if key.kind not in ("labels", "logits")}
        if any(key.kind == "logits" for key in keys):
            features |= self._logits(outputs, inputs)
        if LABELS in keys:
            features |= self._labels(inputs)
        return Signals(features, self.masks(inputs))

    def _logits(self, outputs: Any, inputs: Mapping[str, Any]) -> dict[Key, Tensor]:
        if self.logits != "spans":
            return {LOGITS: _pick(outputs, LOGITS)}
        allowed = inputs.get("span_mask", inputs.get("attention_mask"))
        heads = {LOGITS: _named(outputs, "start_logits"), END_LOGITS: _named(outputs, "end_logits")}
        return heads if allowed is None else {key: value.masked_fill(allowed.eq(0), -torch.inf)
                                              for key, value in heads.items()}

    def _labels(self, inputs: Mapping[str, Any]) -> dict[Key, Tensor]:
        names = {LABELS: "labels"}
        if self.logits == "spans":
            names = {LABELS: "start_positions", END_LABELS: "end_positions"}
        return {key: inputs[name] for key, name in names.items() if inputs.get(name) is not None}

    def masks(self, inputs: Any) -> Masks:
        tokens = inputs.get("attention_mask")
        if tokens is None:
            tokens = torch.ones_like(inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"][..., 0])
        tokens = tokens.flatten(0, 1) if self.logits == "choices" else tokens
        predictions = inputs.get("logits_mask")
        if predictions is None:
            rows = len(next(iter(inputs.values())))
            predictions = tokens if self.logits == "tokens" else tokens.reshape(rows, -1).ne(0).any(dim=1, keepdim=True)
        masks = {"inputs": tokens, "logits": predictions}
        if self.logits == "spans":
            masks["logits.1"] = predictions
        labels = self._labels(inputs).get(LABELS)
        if labels is not None:
            kept = labels_mask(labels)
            masks["labels"] = kept if self.logits == "tokens" else kept.any(dim=1, keepdim=True)
        return masks

    def check(self, model: nn.Module, keys: frozenset[Key], *, is_trained: bool = False) -> None:
        config: Any = model.config
        depth = config.num_hidden_layers
        for layer in indices(keys, "hidden"):
            if not -depth - 1 <= layer <= depth:
                raise PlanError(f"hidden state {layer} does not exist: {type(model).__name__} has {depth} layers "
                                f"(1 to {depth}, and 0 for the embeddings)")
        for layer in (*indices(keys, "attention"), *indices(keys, ATTENTION_SCORES)):
            if not -depth <= layer < depth:
                raise PlanError(f"attention map {layer} does not exist: {type(model).__name__} has {depth} layers, "
                                f"so maps 0 to {depth - 1}")
        if any(key.kind in _MAPS for key in keys):
            _require_maps(model, needs_logarithm=is_trained and bool(indices(keys, ATTENTION_SCORES)))

    def width(self, model: nn.Module, key: Key) -> int | None:
        config: Any = model.config
        if key.kind == "hidden" or key == LAST_HIDDEN:
            return int(config.hidden_size)
        if key.kind == "logits" and type(model).__name__.endswith("Classification"):
            return int(config.num_labels)
        if key.kind in _MAPS:
            heads: int | None = getattr(config, "num_attention_heads", None)
            return heads
        return None


def _require_maps(model: nn.Module, needs_logarithm: bool) -> None:
    """Raise `PlanError` unless the model gives attention maps whose logarithm means something, if that is needed."""
    config: Any = model.config
    if not getattr(config, "num_attention_heads", None):
        raise PlanError(f"attention maps are asked for, but {type(model).__name__} has no attention; take the "
                        "matches of attention out")
    implementation = getattr(config, "_attn_implementation", None)
    if implementation != "eager":
        raise PlanError(f"attention maps are asked for, but {type(model).__name__} uses the {implementation!r} "
                        "implementation, which gives none; load it with attn_implementation='eager'")
    dropout = next((name for name in ATTENTION_DROPOUTS if getattr(config, name, 0)), None)
    if needs_logarithm and dropout is not None:
        raise PlanError(f"the student's {dropout} is {getattr(config, dropout)}: dropout sets attention probabilities "
                        f"to 0, whose logarithm a loss cannot use; make the student with {dropout}=0.0")


def _require_probabilities(model: nn.Module, outputs: Any) -> None:
    """Raise `OutputError` unless the first map is what its logarithm is taken of."""
    maps = outputs.get("attentions")
    if maps and not holds_probabilities(maps[0]):
        reason = "dropout of attention probabilities is on; make the student without it" if model.training else (
            "the model returns scores or something else; give a FunctionAdaptor that returns the scores")
        raise OutputError(f"the attention maps of {type(model).__name__} are no probabilities, whose rows sum to 1: "
                          f"{reason}")


def _pick(outputs: Any, key: Key) -> Tensor:
    if key.kind in ("logits", LAST_HIDDEN.kind):
        return _named(outputs, key.kind)
    values = outputs.get(_OUTPUTS.get(key.kind, key.kind))
    if not values:
        raise OutputError(f"the model gave no {key}; its outputs were {', '.join(outputs.keys())}")
    value: Tensor = values[key.index]
    return log_probabilities(value) if key.kind == ATTENTION_SCORES else value


def _named(outputs: Any, name: str) -> Tensor:
    value: Tensor | None = outputs.get(name)
    if value is None:
        raise OutputError(f"the model gave no {name}; its outputs were {', '.join(outputs.keys())}")
    return value


@lru_cache(maxsize=64)
def _accepted(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
