"""Token classification: a tag for every word, as in named-entity recognition or part-of-speech tagging."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, TypeVar, final

import numpy as np
import torch
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
from stillhouse.tasks.said import Said, share
from stillhouse.tasks.tokenizing import tokenized
from stillhouse.types import LOGITS

_Places = Sequence[Sequence[int]]
_Value = TypeVar("_Value")

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

    name_columns = ("tokens", "tags")


@final
@dataclass(frozen=True, eq=False)
class _Words:
    """Where the words of encoded rows are, and what they are."""

    places: _Places
    """The number of each word's first token in its row; -1 for a word that the model does not see."""
    tags: Sequence[Sequence[int] | None]


@final
class TokenClassification(Task[TokenClassificationData]):
    """F1 of whole entities for tags such as B-PER; accuracy and macro-F1 for others, such as parts of speech.

    The tag of a word is predicted at its first token, and only there are student and teacher compared. Words that the
    model does not see, because ``max_length`` cuts them off or the tokenizer finds nothing in them (control
    characters), are judged as if it had said "O", or the first tag where there is no "O".

    What is said of an example: ``tags``, one a word, and the ``confidence`` of each, 0 for a word that is not seen.
    """

    name = "token-classification"
    data = TokenClassificationData
    auto_class = AutoModelForTokenClassification
    head = "ForTokenClassification"
    predicts = "tokens"
    text_columns: ClassVar[TextColumns] = {"tokens": "words"}
    label_columns = ("tags",)
    shown_as: ClassVar[Mapping[str, str]] = {"tokens": "words"}

    def __init__(self, spec: TokenClassificationData) -> None:
        super().__init__(spec)
        self._labels: Labels | None = None
        self._call_tags(spec.label_names if isinstance(spec.label_names, tuple) else ())

    def _call_tags(self, names: tuple[str, ...]) -> None:
        self.label_names = names
        self.metric = "f1" if is_chunked(names) or not names else "accuracy"

    def examples(self, rows: Rows, split: str) -> Examples:
        spec = self.spec
        inputs = self.read_inputs(rows)
        tokens = inputs["tokens"]
        if self._labels is None:
            self._labels = Labels.of(rows, spec.tags, spec.label_names, several=True)
            self._call_tags(self._labels.names)
        tags = self._labels.lists(rows)
        for index, (words, numbers) in enumerate(zip(tokens, tags, strict=True)):
            if len(words) != len(numbers):
                raise DataError(f"{place(rows, index, spec.tags)}: {len(numbers)} tags for the {len(words)} words in "
                                f"column {spec.tokens!r}; every word needs one")
        return Examples({**inputs, "tags": tags})

    def read_inputs(self, rows: Rows) -> dict[str, Sequence[Any]]:
        return {"tokens": text_lists(rows, self.spec.tokens)}

    def gold(self, examples: Examples) -> list[list[str] | None]:
        return [None if tags is None else [self.label_names[tag] for tag in tags] for tags in examples["tags"]]

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
        parts = [torch.empty(0, len(self.label_names))] * len(encoded)
        for rows, features in outputs:
            logits_BLC = self._checked_logits(features[LOGITS], len(rows))
            for logits_LC, row in zip(logits_BLC, rows, strict=True):
                padding = len(logits_LC) - int(encoded.lengths[row]) if encoded.padding_side == "left" else 0
                seen = [padding + token for token in words.places[row] if token >= 0]
                parts[row] = logits_LC[torch.tensor(seen, dtype=torch.long)]
        logits_WC = torch.cat(parts)
        found = _by_word(logits_WC.argmax(dim=-1).tolist(), words.places, outside)
        return Judgement(lambda: self._metrics(found, words.tags), np.array(list(chain.from_iterable(found))),
                         lambda: self._said(found, logits_WC, words.places))

    def _checked_logits(self, logits: Tensor, num_rows: int) -> Tensor:
        if logits.dim() != 3 or (len(logits), logits.shape[-1]) != (num_rows, len(self.label_names)):
            raise OutputError(f"the model gave logits of {tuple(logits.shape)} for {num_rows} rows and "
                              f"{len(self.label_names)} tags; load it with the task's load_model")
        return logits

    def _said(self, found: Sequence[Sequence[int]], logits_WC: Tensor, places: _Places) -> list[Said]:
        confidences = logits_WC.double().softmax(dim=-1).amax(dim=-1).tolist()
        by_word = _by_word(list(map(share, confidences)), places, 0.0)
        return [{"tags": [self.label_names[tag] for tag in tags], "confidence": values}
                for tags, values in zip(found, by_word, strict=True)]

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


def _by_word(values: Sequence[_Value], places: _Places, unseen: _Value) -> list[list[_Value]]:
    """The values of the words that a model sees, one after another, as a list a row; the others get ``unseen``."""
    left = iter(values)
    return [[next(left) if token >= 0 else unseen for token in row] for row in places]


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
