"""Text classification: one label for a text or for a pair of texts."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.adaptors import HuggingFaceAdaptor
from stillhouse.batches import to_device, windows
from stillhouse.errors import ConfigError, DataError, OutputError
from stillhouse.metrics import classification_metrics
from stillhouse.modes import device_of, evaluation
from stillhouse.tasks import pretrained
from stillhouse.tasks.base import DataSpec, Judgement, Task
from stillhouse.tasks.batching import BucketLoader, BucketSampler, EncodedSplit
from stillhouse.tasks.data_files import Rows, read_rows
from stillhouse.tasks.labels import Labels
from stillhouse.types import LOGITS

HELD_OUT = 0.1
"""The share of the train rows that stands in for a validation split, if none is given."""

_ROWS_TOKENISED_AT_ONCE = 10_000  # a tokenizer's own result takes far more memory than the ids kept of it


@dataclass(frozen=True)
class _Split:
    texts: list[str]
    pairs: list[str] | None
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Sequence[int]) -> _Split:
        pairs = None if self.pairs is None else [self.pairs[i] for i in index]
        return _Split([self.texts[i] for i in index], pairs, [self.labels[i] for i in index])


@final
class TextClassification(Task):
    """Accuracy and macro-F1 of one label a row; the names end up in the model's ``id2label``."""

    metric = "accuracy"

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._splits: dict[str, _Split] = {}

    def load(self) -> None:
        spec = self.spec
        sources = {"train": spec.train, "validation": spec.validation, "test": spec.test}
        tables = {split: read_rows(source, split) for split, source in sources.items() if source is not None}
        labels = Labels.of(tables["train"], spec.label, spec.label_names)
        splits = {split: self._checked(rows, labels) for split, rows in tables.items()}
        if "validation" not in splits:
            splits["train"], splits["validation"] = self._hold_out(splits["train"])
        if spec.limit is not None:
            splits["train"] = splits["train"].rows(range(min(spec.limit, len(splits["train"]))))
        self._splits, self.label_names = splits, labels.names
        self.num_rows = {split: len(splits[split]) for split in sources if split in splits}

    def _checked(self, rows: Rows, labels: Labels) -> _Split:
        pairs = None if self.spec.text_pair is None else _texts(rows, self.spec.text_pair)
        return _Split(_texts(rows, self.spec.text), pairs, labels.numbers(rows))

    def _hold_out(self, train: _Split) -> tuple[_Split, _Split]:
        if len(train) < 2:
            raise DataError(f"{self.spec.train}: one row cannot be both trained on and held out; set data.validation")
        held_out = set(random.Random(0).sample(range(len(train)), max(1, round(HELD_OUT * len(train)))))
        kept = [index for index in range(len(train)) if index not in held_out]
        return train.rows(kept), train.rows(sorted(held_out))

    @property
    def fingerprint(self) -> str:
        return _hash([[split, self.split_fingerprint(split)] for split in sorted(self._splits)])

    def split_fingerprint(self, split: str) -> str:
        rows = self._split(split)
        return _hash([self.label_names, self.spec.max_length, rows.texts, rows.pairs, rows.labels])

    def load_model(self, path: str, *, attn_implementation: str | None = None) -> PreTrainedModel:
        return pretrained.load_classifier(path, self.label_names, self.spec.max_length, attn_implementation)

    def load_tokenizer(self, path: str) -> PreTrainedTokenizerBase:
        return pretrained.load_tokenizer(path)

    def adaptor(self) -> HuggingFaceAdaptor:
        return HuggingFaceAdaptor("rows")

    def encode(self, split: str, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        rows = self._split(split)
        special = tokenizer.num_special_tokens_to_add(pair=rows.pairs is not None)
        if self.spec.max_length <= special:
            raise ConfigError(f"data.max_length is {self.spec.max_length}, but the tokenizer's special tokens alone "
                              f"take {special}; set it to {special + 1} or more")
        columns: dict[str, list[list[int]]] = {}
        for start in range(0, len(rows), _ROWS_TOKENISED_AT_ONCE):
            part = slice(start, start + _ROWS_TOKENISED_AT_ONCE)
            found = tokenizer(
                rows.texts[part],
                None if rows.pairs is None else rows.pairs[part],
                truncation=True,
                max_length=self.spec.max_length,
                padding=False,
                return_attention_mask=False,
            )
            for name, values in found.items():
                columns.setdefault(name, []).extend(values)
        return EncodedSplit(
            columns["input_ids"],
            columns.get("token_type_ids"),
            torch.tensor(rows.labels),
            pad_token_id=int(tokenizer.pad_token_id),
            pad_token_type_id=int(tokenizer.pad_token_type_id),
            padding_side="left" if tokenizer.padding_side == "left" else "right",
        )

    def loader(self, encoded: EncodedSplit, *, batch_size: int, seed: int, shuffle: bool) -> BucketLoader:
        return BucketLoader(
            encoded, BucketSampler(encoded.lengths, batch_size=batch_size, seed=seed, shuffle=shuffle)
        )

    def evaluate(
        self,
        model: nn.Module,
        encoded: EncodedSplit,
        *,
        batch_size: int = 64,
        autocast_dtype: torch.dtype | None = None,
    ) -> Judgement:
        device, adaptor = device_of(model), self.adaptor()
        logits = torch.empty(len(encoded), len(self.label_names))
        by_length = encoded.lengths.argsort(kind="stable")[::-1].tolist()  # the longest first: memory runs out at once
        enabled = autocast_dtype is not None
        with torch.no_grad(), evaluation(model), torch.autocast(device.type, autocast_dtype, enabled=enabled):
            for rows in windows(by_length, batch_size):
                inputs = to_device(encoded.batch(rows), device)
                found = adaptor.run(model, inputs, frozenset({LOGITS}), {}).features[LOGITS]
                logits[rows] = self._checked_logits(found, len(rows))
        return Judgement(classification_metrics(logits, encoded.labels), logits, encoded.labels)

    def _checked_logits(self, logits: Tensor, num_rows: int) -> Tensor:
        if logits.shape != (num_rows, len(self.label_names)):
            raise OutputError(f"the model gave logits of {tuple(logits.shape)} for {num_rows} rows and "
                              f"{len(self.label_names)} labels; load it with the task's load_model")
        return logits.float().cpu()

    def _split(self, split: str) -> _Split:
        if split not in self._splits:
            raise DataError(f"there is no {split} split; set data.{split}. There are: "
                            f"{', '.join(self._splits) or 'none, since load() has not been called'}")
        return self._splits[split]


def _texts(rows: Rows, column: str) -> list[str]:
    values = rows.column(column)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            found = "there is no text" if value is None else f"{value!r:.80} is of type {type(value).__name__}"
            raise DataError(f"{rows.where(index)}, column {column!r}: {found}; every row needs a text")
    try:
        "".join(values).encode()
    except UnicodeEncodeError as error:
        index = next(index for index, value in enumerate(values) if any("\ud800" <= c <= "\udfff" for c in value))
        raise DataError(f"{rows.where(index)}, column {column!r}: {values[index]!r:.80} holds half of a surrogate "
                        "pair, which is no character; remove it") from error
    return list(values)


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()
