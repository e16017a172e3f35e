"""Token classification: a tag for every word, as in named-entity recognition or part-of-speech tagging."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, final

import numpy as np
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from stillhouse.adaptors import HuggingFaceAdaptor
from stillhouse.errors import ConfigError, DataError, OutputError
from stillhouse.metrics import accuracy, entity_metrics, is_chunked, macro_f1
from stillhouse.sections.values import LabelNames
from stillhouse.tasks.answering import Answers
from stillhouse.tasks.base import DataSpec, Examples, Task, TextColumns
from stillhouse.tasks.batching import EncodedSplit
from stillhouse.tasks.columns import place, text_lists
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.labels import Labels
from stillhouse.tasks.tokenizing import tokenized
from stillhouse.types import LOGITS

NO_LABEL = -100
OUTSIDE = "O"
"""The tag of a word that is part of no entity."""


class TokenClassificationData(DataSpec):
    """The data of a token classification: words and their tags."""

    tokens: str = "tokens"
    """The column with the words: a list of texts. For Chinese these may be single characters."""
    tags: str = "tags"
    """The column with a list of tags, one a word: names, or numbers from 0."""
    label_names: LabelNames = None
    """The names of the tags in order: a file (a JSON list, a JSON object with a list for the tag column, or a name a
    line) or a list. Needed for numbers, optional for names."""


@final
@dataclass(frozen=True, eq=False)
class _Words:
    """Where the words of encoded rows are, and what they are."""

    places: Sequence[Sequence[int]]
    """The number of each word's first token in its row; -1 for a word that the model does not see."""
    tags: Sequence[Sequence[int] | None]


@final
class TokenClassification(Task[TokenClassificationData]):
    """F1 of whole entities for tags such as B-PER; accuracy and macro-F1 for others, such as parts of speech.

    The tag of a word is predicted at its first token, and only there are student and teacher compared. Words that the
    model does not see, because ``max_length`` cuts them off or the tokenizer finds nothing in them (control
    characters), are judged as if it had said "O", or the first tag where there is no "O".
    """

    name = "token-classification"
    data = TokenClassificationData
    auto_class = AutoModelForTokenClassification
    head = "ForTokenClassification"
    predicts = "tokens"
    text_columns: ClassVar[TextColumns] = {"tokens": "words"}
    label_columns = ("tags",)

    def __init__(self, spec: TokenClassificationData) -> None:
        super().__init__(spec)
        self.metric = "f1"
        self._labels: Labels | None = None

    def examples(self, rows: Rows, split: str) -> Examples:
        spec = self.spec
        tokens = text_lists(rows, spec.tokens)
        if self._labels is None:
            self._labels = Labels.of(rows, spec.tags, spec.label_names, several=True)
            self.label_names = self._labels.names
            self.metric = "f1" if is_chunked(self.label_names) else "accuracy"
        tags = self._labels.lists(rows)
        for index, (words, numbers) in enumerate(zip(tokens, tags, strict=True)):
            if len(words) != len(numbers):
                raise DataError(f"{place(rows, index, spec.tags)}: {len(numbers)} tags for the {len(words)} words in "
                                f"column {spec.tokens!r}; every word needs one")
        return Examples({"tokens": tokens, "tags": tags})

    def adaptor(self) -> HuggingFaceAdaptor:
        return HuggingFaceAdaptor(self.predicts)

    def encoded(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        words = [_as_in_text(row, tokenizer) for row in examples["tokens"]]
        columns = tokenized(tokenizer, words, max_length=self.spec.max_length, is_split_into_words=True)
        places = [_first_tokens(numbers, len(row)) for numbers, row in zip(columns.pop("word_ids"), words, strict=True)]
        lengths = [len(ids) for ids in columns["input_ids"]]
        _warn_of_cut_words(places, lengths, self.spec.max_length)
        columns["labels"], columns["logits_mask"] = [], []
        for length, row, tags in zip(lengths, places, examples["tags"], strict=True):
            labels, kept = [NO_LABEL] * length, [0] * length
            for word, token in enumerate(row):
                if token >= 0:
                    labels[token] = NO_LABEL if tags is None else tags[word]
                    kept[token] = 1
            columns["labels"].append(labels)
            columns["logits_mask"].append(kept)
        return EncodedSplit.of(tokenizer, columns, {}, details=_Words(places, examples["tags"]))

    def judged(self, encoded: EncodedSplit, outputs: Answers) -> Judgement:
        words: _Words = encoded.details
        outside = self.label_names.index(OUTSIDE) if OUTSIDE in self.label_names else 0
        found: list[list[int]] = [[] for _ in words.places]
        for rows, features in outputs:
            guesses = self._guesses(features[LOGITS], len(rows))
            for row, guess in zip(rows, guesses, strict=True):
                padding = len(guess) - int(encoded.lengths[row]) if encoded.padding_side == "left" else 0
                found[row] = [guess[padding + token] if token >= 0 else outside for token in words.places[row]]
        return Judgement(self._metrics(found, words.tags), np.array(list(chain.from_iterable(found))))

    def _guesses(self, logits: Tensor, num_rows: int) -> list[list[int]]:
        if logits.dim() != 3 or (len(logits), logits.shape[-1]) != (num_rows, len(self.label_names)):
            raise OutputError(f"the model gave logits of {tuple(logits.shape)} for {num_rows} rows and "
                              f"{len(self.label_names)} tags; load it with the task's load_model")
        guesses: list[list[int]] = logits.argmax(dim=-1).tolist()
        return guesses

    def _metrics(self, found: Sequence[Sequence[int]], tags: Sequence[Sequence[int] | None]) -> dict[str, float]:
        wanted = [row for row in tags if row is not None]
        if len(wanted) < len(tags):
            raise DataError(f"{len(tags) - len(wanted)} of {len(tags)} rows have no tags; only rows with tags can be "
                            "judged")
        if is_chunked(self.label_names):
            names = [[[self.label_names[number] for number in row] for row in rows] for rows in (found, wanted)]
            return entity_metrics(*names)
        predicted, right = (list(chain.from_iterable(rows)) for rows in (found, wanted))
        return {"accuracy": accuracy(predicted, right), "macro_f1": macro_f1(predicted, right, len(self.label_names))}


def _as_in_text(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words as a tokenizer takes them: with the space before each but the first, where it does not put one itself.

    Byte-level tokenizers (RoBERTa's) have one token for "a" at the start and another for "a" after a space. Raises
    `ConfigError` for a tokenizer that cannot say which word a token is of.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not tokenizer.is_fast or backend is None:
        raise ConfigError(f"{type(tokenizer).__name__} does not tell which word a token is of; give a model with a "
                          "tokenizer.json, as the tokenizers library writes it")
    described = repr(backend.pre_tokenizer)
    if "ByteLevel(add_prefix_space=False" not in described and "prepend_scheme=never" not in described:
        return list(words)
    return [*words[:1], *(" " + word for word in words[1:])]


def _first_tokens(word_ids: Sequence[int | None], num_words: int) -> list[int]:
    """The number of each word's first token; -1 for a word without any."""
    places = [-1] * num_words
    for token in range(len(word_ids) - 1, -1, -1):
        word = word_ids[token]
        if word is not None:
            places[word] = token
    return places


def _warn_of_cut_words(places: Sequence[Sequence[int]], lengths: Sequence[int], max_length: int) -> None:
    """Say how many words ``max_length`` cut off: all after the last one seen of a row as long as that."""
    cut = [len(row) - 1 - max((word for word, token in enumerate(row) if token >= 0), default=-1)
           for row, length in zip(places, lengths, strict=True) if length == max_length]
    num_cut = sum(cut)
    if num_cut:
        warnings.warn(f"data.max_length of {max_length} cuts off {num_cut} of {sum(map(len, places))} words, in "
                      f"{sum(map(bool, cut))} of {len(places)} rows: no tag is learnt there, and \"{OUTSIDE}\" is "
                      "judged; raise it if the model reads more", stacklevel=4)
