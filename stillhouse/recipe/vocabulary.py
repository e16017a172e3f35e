"""Whether two models read the same tokens."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.errors import PlanError


def require_same_vocabulary(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, teacher_path: str, student_path: str
) -> None:
    """Raise `PlanError` unless every id means the same token to both: the two read one and the same input."""
    ours, theirs = (_by_id(tokenizer) for tokenizer in (teacher, student))
    if ours == theirs:
        return
    different = [i for i in sorted(ours.keys() | theirs.keys()) if ours.get(i) != theirs.get(i)]
    first = different[0]
    raise PlanError(
        f"the student's vocabulary is not the teacher's: {len(different)} of {len(ours)} ids differ; id {first} is "
        f"{ours.get(first)!r} to the teacher ({teacher_path}), {theirs.get(first)!r} to the student ({student_path}). "
        "Both read the same token ids, so take a student made from the teacher ({shape: T3}, {keep: half}), or a model "
        "with the teacher's own tokenizer")


def require_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Raise `PlanError` if the tokenizer gives ids that the model has no embedding for."""
    rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise PlanError(f"{what} has embeddings for {rows} tokens, but its tokenizer gives ids up to {highest}; "
                        "the two do not belong together: save model and tokenizer into one folder")


def _by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}
