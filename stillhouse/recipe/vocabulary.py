"""Whether two models read the same tokens."""

from __future__ import annotations

import json
from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.errors import PlanError


def identity_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """A text that is equal only for tokenizers that make the same ids of every text, rules included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {**tokenizer.init_kwargs, "vocabulary": tokenizer.get_vocab()} if backend is None else {
        name: value for name, value in json.loads(backend.to_str()).items() if name not in ("truncation", "padding")}
    return json.dumps([rules, tokenizer.padding_side], sort_keys=True, default=str)


def read_alike(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether both make the same ids of every text."""
    return first is second or identity_of(first) == identity_of(second)


def require_same_vocabulary(
    first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase, first_path: str, second_path: str
) -> None:
    """Raise `PlanError` unless both teachers make the same ids of every text: they read one and the same input."""
    if not read_alike(first, second):
        raise PlanError("the teachers' vocabularies are not the same: "
                        f"{difference(first, second, first_path, second_path)}. Several teachers read the same token "
                        "ids; give models with one tokenizer")


def difference(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase, first_path: str,
               second_path: str) -> str:
    """In what two vocabularies differ, for people."""
    ours, theirs = (_by_id(tokenizer) for tokenizer in (first, second))
    different = [i for i in sorted(ours.keys() | theirs.keys()) if ours.get(i) != theirs.get(i)]
    if not different:
        return f"the ids are the same in {first_path} and {second_path}, but not the rules that cut texts into them"
    return (f"{len(different)} of {len(ours)} ids differ; id {different[0]} is {ours.get(different[0])!r} in "
            f"{first_path}, {theirs.get(different[0])!r} in {second_path}")


def require_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Raise `PlanError` if the tokenizer gives ids that the model has no embedding for."""
    rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise PlanError(f"{what} has embeddings for {rows} tokens, but its tokenizer gives ids up to {highest}; "
                        "the two do not belong together: save model and tokenizer into one folder")


def _by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}
