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
from stillhouse.types import ALL_LOGITS, ATTENTION_SCORES, LABELS, LOGITS, Key, Masks

_ROW_HEADS = ("ForSequenceClassification", "ForNextSentencePrediction")
_TOKEN_HEADS = ("ForTokenClassification", "ForMaskedLM")
_MAPS = ("attention", ATTENTION_SCORES)
_OUTPUTS = {"hidden": "hidden_states", "attention": "attentions", ATTENTION_SCORES: "attentions"}
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
"""What families call the dropout of attention probabilities in their configurations."""


class HuggingFaceAdaptor(Adaptor):
    """Reads logits, hidden states and attention maps of a Hugging Face model; declares its masks.

    Hidden state 0 is the embedding output. Attention map i is that of layer i + 1; it holds probabilities, and their
    logarithm stands in for the scores that the paper's attention losses work on. The model never sees the labels, so it
    computes no loss of its own; `stillhouse.losses.HardLabels` does.

    Args:
        logits: whether the model predicts once a row, (B, C), or once a token, (B, L, C).
    """

    declares_masks = True

    def __init__(self, logits: Literal["rows", "tokens"]) -> None:
        self.logits = logits
        self.fingerprint = f"hugging-face/1 logits={logits}"
        self._looked_at_maps = False

    @classmethod
    def for_model(cls, model: nn.Module) -> HuggingFaceAdaptor:
        """The adaptor for a model whose class name tells its head. Raises `PlanError` for any other."""
        name = type(model).__name__
        if name.endswith(_ROW_HEADS):
            return cls("rows")
        if name.endswith(_TOKEN_HEADS):
            return cls("tokens")
        raise PlanError(
            f"{name} does not say whether it predicts one class per row or per token (known heads: "
            f"{', '.join(_ROW_HEADS + _TOKEN_HEADS)}); if it does, give HuggingFaceAdaptor(logits='rows') or "
            "HuggingFaceAdaptor(logits='tokens'), else a FunctionAdaptor"
        )

    def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Mapping[str, Any]) -> Signals:
        arguments = dict(extra) | {"return_dict": True}
        if indices(keys, "hidden"):
            arguments["output_hidden_states"] = True
        if any(key.kind in _MAPS for key in keys):
            arguments["output_attentions"] = True
        if not isinstance(inputs, Mapping):
            raise OutputError("the automatic adaptor reads inputs by name, and this batch is a "
                              f"{type(inputs).__name__}; give dictionaries, or a FunctionAdaptor")
        accepted = _accepted(type(model).forward)
        outputs = call_model(model, {k: v for k, v in inputs.items() if k != "labels" and k in accepted}, arguments)
        if indices(keys, ATTENTION_SCORES) and not self._looked_at_maps:
            self._looked_at_maps = True
            _require_probabilities(model, outputs)
        features = {LOGITS if key == ALL_LOGITS else key: _pick(outputs, key) for key in keys - {LABELS}}
        if LABELS in keys and inputs.get("labels") is not None:
            features[LABELS] = inputs["labels"]
        return Signals(features, self.masks(inputs))

    def masks(self, inputs: Any) -> Masks:
        tokens = inputs.get("attention_mask")
        if tokens is None:
            tokens = torch.ones_like(inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"][..., 0])
        per_logit = tokens if self.logits == "tokens" else tokens.ne(0).any(dim=1, keepdim=True)
        masks = {"inputs": tokens, "logits": per_logit}
        if inputs.get("labels") is not None:
            masks["labels"] = labels_mask(inputs["labels"])
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
        if key.kind == "hidden":
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
    if key.kind == "logits":
        value = outputs.get("logits")
    else:
        values = outputs.get(_OUTPUTS.get(key.kind, key.kind))
        value = values[key.index] if values else None
        if key.kind == ATTENTION_SCORES and value is not None:
            value = log_probabilities(value)
    if value is None:
        raise OutputError(f"the model gave no {key}; its outputs were {', '.join(outputs.keys())}")
    tensor: Tensor = value
    return tensor


@lru_cache(maxsize=64)
def _accepted(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
