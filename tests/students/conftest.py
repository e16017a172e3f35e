"""The encoder families one by one, each with its tokenizer and a vocabulary trimmed to the data."""

from __future__ import annotations

import pytest
from transformers import (
    PreTrainedTokenizerBase,
)

from stillhouse.students.vocabulary import Vocabulary

from .family_tokenizers import DATA, TOKENIZERS, trimmed_to


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def family(request: pytest.FixtureRequest) -> str:
    """Each encoder family in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(family: str) -> PreTrainedTokenizerBase:
    """The family's tokenizer."""
    return TOKENIZERS[family]()


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The family's tokenizer, trimmed to the data."""
    return trimmed_to(tokenizer, DATA)
