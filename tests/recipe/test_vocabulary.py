"""Promises of the check that two models read the same tokens."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from transformers import AutoModel, AutoTokenizer

from stillhouse.errors import PlanError
from stillhouse.recipe.vocabulary import require_embeddings, require_same_vocabulary
from stillhouse.tasks.pretrained import quiet_transformers

from .conftest import WORDS, save_encoder


def test_equal_size_is_not_equal_vocabulary(encoder: str, tmp_path: Path) -> None:
    swapped = [*WORDS[:-2], WORDS[-1], WORDS[-2]]
    with quiet_transformers():
        ours = AutoTokenizer.from_pretrained(encoder)
        theirs = AutoTokenizer.from_pretrained(save_encoder(tmp_path / "swapped", swapped))
    require_same_vocabulary(ours, copy.deepcopy(ours), "a", "b")
    expected = "2 of 21 ids differ; id 19 is 'o' in a, 'p' in b"
    with pytest.raises(PlanError, match=expected):
        require_same_vocabulary(ours, theirs, "a", "b")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(encoder: str, tmp_path: Path) -> None:
    with quiet_transformers():
        model = AutoModel.from_pretrained(encoder)
        own = AutoTokenizer.from_pretrained(encoder)
        larger = AutoTokenizer.from_pretrained(save_encoder(tmp_path / "larger", [*WORDS, "q"]))
    require_embeddings(model, own, "the model")
    with pytest.raises(PlanError, match="the model has embeddings for 21 tokens, but its tokenizer gives ids up to 21"):
        require_embeddings(model, larger, "the model")
