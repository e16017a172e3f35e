"""Masked language modelling: plain text, of which some tokens are hidden and to be found again."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase

from stillhouse.adaptors.masked_lm import MaskedLMAdaptor
from stillhouse.errors import ConfigError, DataError, OutputError, PlanError
from stillhouse.metrics import masked_lm_metrics
from stillhouse.sections.values import Share
from stillhouse.tasks.answering import Answers
from stillhouse.tasks.base import DataSpec, Examples, Task, TextColumns
from stillhouse.tasks.batching import EncodedSplit
from stillhouse.tasks.columns import texts
from stillhouse.tasks.data_files import Rows
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.tokenizing import require_room
from stillhouse.types import LOGITS

Ids = np.ndarray[Any, np.dtype[np.int64]]

STARTS = "word_starts"
"""The column that is 1 at the first token of each word."""
_REPLACED, _RANDOM = 0.8, 0.1
_TEXTS_AT_ONCE = 1_000  # a tokenizer's own result takes far more memory than the ids kept of it


class MaskedLMData(DataSpec):
    """The data of masked language modelling: plain text."""

    text: str = "text"
    """The column with the text."""
    mask_share: Share = 0.15
    """The share of a row's tokens that is to be predicted. Of these 80 % become the mask token, 10 % a random token,
    and 10 % stay. Training hides other ones each epoch; evaluations always the same."""
    whole_word: bool = False
    """Whether all tokens of a word are hidden together; needs a fast tokenizer."""
    pack: bool = True
    """Whether texts are joined, each with its special tokens, and cut into rows of max_length tokens, only the last of
    which may be shorter; otherwise a text is a row, and what is longer is cut off."""

    decides = ("max_length", "mask_share", "whole_word", "pack")
    name_columns = ("text",)


@final
class MaskedLM(Task[MaskedLMData]):
    """Accuracy and perplexity of the hidden tokens. A split's rows are texts, which may be packed into fewer."""

    name = "masked-lm"
    data = MaskedLMData
    auto_class = AutoModelForMaskedLM
    head = "ForMaskedLM"
    predicts = "tokens"
    classes_are_tokens = True
    metric = "accuracy"
    text_columns: ClassVar[TextColumns] = {"text": "text"}
    repeats_inputs = False
    unsaid = ('a masked language model says what stands behind a mask, and texts have none; ask it with '
              'transformers: pipeline("fill-mask", model="RUN/student")')

    def examples(self, rows: Rows, split: str) -> Examples:
        return Examples(self.read_inputs(rows))

    def read_inputs(self, rows: Rows) -> dict[str, Sequence[Any]]:
        return {"text": texts(rows, self.spec.text)}

    def gold(self, examples: Examples) -> list[Any]:
        return [None] * len(examples)

    def adaptor(self) -> MaskedLMAdaptor:
        return MaskedLMAdaptor()

    def encoded(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        """Rows of token ids, other ones of them hidden each epoch.

        Raises `ConfigError` as `Masking` and `_rows` do, and `DataError` if no row has a token that may be hidden.
        """
        rows = _rows(examples["text"], tokenizer, self.spec)
        _require_words(rows["input_ids"], examples["text"], tokenizer, self.spec.text)
        return EncodedSplit.of(tokenizer, rows, {}, change=Masking(tokenizer, self.spec.mask_share))

    def judged(self, encoded: EncodedSplit, outputs: Answers) -> Judgement:
        correct, negative_log_likelihood = 0, 0.0
        predicted: dict[int, Tensor] = {}
        for rows, features in outputs:
            labels_BL = encoded.batch(rows)["labels"]
            counts_B = labels_BL.ge(0).sum(dim=1)
            logits_NV, labels_N = _predictions(features[LOGITS], counts_B), labels_BL[labels_BL.ge(0)]
            if labels_N.numel() and int(labels_N.max()) >= logits_NV.shape[1]:
                raise OutputError(f"token {int(labels_N.max())} is none of the model's {logits_NV.shape[1]}; the "
                                  "tokenizer is that of another model")
            found_N = logits_NV.argmax(dim=-1)
            correct += int(found_N.eq(labels_N).sum())
            negative_log_likelihood += float(F.cross_entropy(logits_NV, labels_N, reduction="sum"))
            predicted.update(zip(rows, found_N.split(counts_B.tolist()), strict=True))
        answers = torch.cat([predicted[row] for row in range(len(encoded))]).numpy()
        return Judgement(lambda: masked_lm_metrics(correct, len(answers), negative_log_likelihood), answers,
                         self._refuse_to_say)

    def _refuse_to_say(self) -> NoReturn:
        raise PlanError(f"{self.name}: {self.unsaid}")


@final
class Masking:
    """Hides tokens of a batch: ``input_ids`` changes, ``labels`` (-100 elsewhere) and ``logits_mask`` are added.

    What is hidden is a function of the epoch, the row's number and its tokens: it is the same in any batch, and no
    global random generator is used. Special tokens are never hidden; of any row with another token, one is or more.
    Raises `ConfigError` for a tokenizer without a mask token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, share: float) -> None:
        if tokenizer.mask_token_id is None:
            raise ConfigError(f"masked-lm hides words behind a mask token, and this tokenizer, a "
                              f"{type(tokenizer).__name__}, has none; give a model that was trained so, such as a BERT")
        self.share, self._mask_id = share, int(tokenizer.mask_token_id)
        self._special = np.array(sorted(tokenizer.all_special_ids))
        self._ordinary = np.array(sorted({*tokenizer.get_vocab().values()}.difference(tokenizer.all_special_ids)))

    def __call__(self, batch: dict[str, Tensor], rows: Sequence[int], epoch: int | None) -> dict[str, Tensor]:
        ids_BL: Ids = batch["input_ids"].numpy().copy()
        labels_BL = np.full_like(ids_BL, -100)
        starts_BL = batch[STARTS].numpy() if STARTS in batch else np.ones_like(ids_BL)
        may_hide_BL = batch["attention_mask"].numpy().astype(bool) & ~np.isin(ids_BL, self._special)
        for ids_L, labels_L, starts_L, may_hide_L, row in zip(ids_BL, labels_BL, starts_BL, may_hide_BL, rows,
                                                              strict=True):
            # numpy promises that this generator gives the same numbers in every later version.
            random = np.random.RandomState([0 if epoch is None else epoch + 1, row])
            places = np.flatnonzero(may_hide_L)
            hidden = places[self._chosen(starts_L.cumsum()[places], random)]
            labels_L[hidden] = ids_L[hidden]
            ids_L[hidden] = self._hidden(ids_L[hidden], random)
        labels = torch.from_numpy(labels_BL)
        changed = {"input_ids": torch.from_numpy(ids_BL), "labels": labels, "logits_mask": labels.ge(0).long()}
        return {name: values for name, values in batch.items() if name != STARTS} | changed

    def _chosen(self, words: Ids, random: np.random.RandomState) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which tokens are hidden, given the word of each: words in random order until there are enough tokens."""
        _, words, sizes = np.unique(words, return_inverse=True, return_counts=True)
        order = random.permutation(len(sizes))
        before = sizes[order].cumsum() - sizes[order]
        return np.isin(words, order[before < max(1, round(self.share * len(words)))])

    def _hidden(self, ids: Ids, random: np.random.RandomState) -> Ids:
        """What stands in the place of hidden tokens."""
        dice = random.random_sample(len(ids))
        others = self._ordinary[random.randint(len(self._ordinary), size=len(ids))]
        return np.where(dice < _REPLACED, self._mask_id, np.where(dice < _REPLACED + _RANDOM, others, ids))


def _predictions(logits_BPV: Tensor, counts_B: Tensor) -> Tensor:
    """(N, V): the logits of the hidden tokens, row by row. Raises `OutputError` if there is not one for each."""
    most = max(1, int(counts_B.max()))
    if logits_BPV.dim() != 3 or logits_BPV.shape[:2] != (len(counts_B), most):
        raise OutputError(f"the model gave logits of {tuple(logits_BPV.shape)} for {len(counts_B)} rows and at most "
                          f"{most} hidden tokens a row; ask it with the task's own adaptor")
    return logits_BPV[torch.arange(most) < counts_B.unsqueeze(1)]


def _rows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, spec: MaskedLMData) -> dict[str, list[array[int]]]:
    """Columns of one value a token. Raises `ConfigError` for a tokenizer that cannot say what is asked of it."""
    require_room(tokenizer, spec.max_length, pair=False)
    if spec.whole_word and not tokenizer.is_fast:
        raise ConfigError(f"data.whole_word: a {type(tokenizer).__name__} does not say where words start, which only "
                          "fast tokenizers do; set it to false")
    columns: dict[str, list[array[int]]] = {}
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        found = tokenizer(list(texts[start : start + _TEXTS_AT_ONCE]), truncation=not spec.pack,
                          max_length=spec.max_length, padding=False, return_attention_mask=False)
        values = dict(found.items())
        if spec.whole_word:
            values[STARTS] = [_word_starts(found.word_ids(i)) for i in range(len(values["input_ids"]))]
        for name, lists in values.items():
            columns.setdefault(name, []).extend(array("i", each) for each in lists)
    return {name: _cut(each, spec.max_length) for name, each in columns.items()} if spec.pack else columns


def _require_words(rows: Sequence[Sequence[int]], texts: Sequence[str], tokenizer: PreTrainedTokenizerBase,
                   column: str) -> None:
    """Raise `DataError` unless some token may be hidden."""
    special = set(tokenizer.all_special_ids)
    if all(special.issuperset(row) for row in rows):
        raise DataError(f"in none of {len(texts)} texts, such as {texts[0]!r:.80}, does the tokenizer know a word, so "
                        f"that there is nothing to hide; set data.text (now {column!r}) to the column with the text, "
                        "or give a model whose tokenizer knows its language")


def _word_starts(words: Sequence[int | None]) -> list[int]:
    """1 for the first token of each word and for special tokens, which belong to none."""
    return [int(word is None or index == 0 or word != words[index - 1]) for index, word in enumerate(words)]


def _cut(parts: Sequence[array[int]], length: int) -> list[array[int]]:
    """The parts joined, and cut into stretches of a length, the last of which may be shorter."""
    stream = array("i")
    for part in parts:
        stream.extend(part)
    return [stream[start : start + length] for start in range(0, len(stream), length)]
