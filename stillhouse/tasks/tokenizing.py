"""Texts to token ids, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.errors import ConfigError
from stillhouse.tasks.token_rows import TokenRows

_ROWS_AT_ONCE = 10_000  # a tokenizer's own result takes far more memory than the ids kept of it


def tokenized(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], pairs: Sequence[str] | None = None, *,
              max_length: int, **options: Any) -> dict[str, Any]:
    """``input_ids`` and what else the tokenizer gives (``token_type_ids``), as `TokenRows`.

    What is longer than ``max_length`` is cut, the longer text of a pair first. ``options`` are the tokenizer's own;
    with ``is_split_into_words`` there are ``word_ids`` too, a list a row: the number of each token's word, None for
    special tokens.
    Raises `ConfigError` if the special tokens alone leave no room.
    """
    require_room(tokenizer, max_length, pair=pairs is not None)
    parts: dict[str, list[Any]] = {}
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        found = tokenizer(
            list(texts[part]),
            None if pairs is None else list(pairs[part]),
            **{"truncation": True, "max_length": max_length, "padding": False, "return_attention_mask": False,
               **options},
        )
        for name, values in found.items():
            parts.setdefault(name, []).append(TokenRows(values))
        if options.get("is_split_into_words"):
            parts.setdefault("word_ids", []).extend(found.word_ids(row) for row in range(len(found["input_ids"])))
    return {name: values if name == "word_ids" else TokenRows.joined(values) for name, values in parts.items()}


def require_room(tokenizer: PreTrainedTokenizerBase, max_length: int, *, pair: bool) -> None:
    """Raise `ConfigError` unless rows have room for more than special tokens."""
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise ConfigError(f"data.max_length is {max_length}, but the tokenizer's special tokens alone "
                          f"take {special}; set it to {special + 1} or more")
