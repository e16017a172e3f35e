"""What a task is: data read and checked, models loaded for it, batches made of it, and answers judged."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, final

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.adaptors import Adaptor
from stillhouse.errors import DataError
from stillhouse.losses import HardLabels, Loss
from stillhouse.sections import Section
from stillhouse.sections.values import Count, one_or_more
from stillhouse.tasks import pretrained
from stillhouse.tasks.answering import Answers, answers
from stillhouse.tasks.batching import BucketLoader, BucketSampler, EncodedRows, EncodedSplit
from stillhouse.tasks.data_files import Rows, read_rows
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.packed import STRETCH, packed
from stillhouse.types import LOGITS, Key

TASKS: dict[str, type[Task[Any]]] = {}
"""The tasks that a recipe can name."""

HELD_OUT = 0.1
"""The share of the train rows that stands in for a validation split, if none is given."""


TextColumns = Mapping[str, Literal["text", "words", "kept"]]
"""What a row's inputs are made of, column by column."""


Predicts = Literal["rows", "tokens", "choices", "spans"]


class DataSpec(Section):
    """The data: files (.json, .jsonl, .csv, .tsv, .parquet, .txt, also .gz), folders or hub ids.

    A split is a file, a folder, or a hub id ``name[:config][@split]``.
    """

    train: str
    """The training data: a file, a folder or a hub id."""
    validation: str | None = None
    """Picks the best checkpoint; without it a tenth of the training data is held out, the same for any seed."""
    test: str | None = None
    """What is reported in the end; without it the validation data is."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """Tokens a row, special tokens included; what is longer is cut."""
    limit: Count | None = None
    """Train on the first so many rows only (after the hold-out), to try things out."""

    decides: ClassVar[tuple[str, ...]] = ("max_length",)
    """The settings that change what a model sees of the same rows."""
    name_columns: ClassVar[tuple[str, ...]] = ()
    """The settings that name columns of the data."""

    @final
    def wanted_columns(self) -> dict[str, str]:
        """The columns that the settings name, each with what to do if there is none of that name.

        That is empty where the user chose the name: the message about the column shows it.
        """
        found: dict[str, str] = {}
        for setting in self.name_columns:
            value = getattr(self, setting)
            form = "[..., ...]" if isinstance(value, tuple) and len(value) > 1 else "..."
            remedy = (f"; that is what data.{setting} is unless you say otherwise: name yours with {setting}: "
                      f"{form} (in Python {setting}={form}; to predict and evaluate, --set {setting}={form})")
            is_default = value == type(self).model_fields[setting].default
            found |= dict.fromkeys(one_or_more(value), remedy if is_default else "")
        return found


Spec = TypeVar("Spec", bound=DataSpec)


@final
@dataclass(frozen=True, eq=False)
class Examples:
    """The checked rows of one split, column by column, as plain values that JSON can hold."""

    columns: Mapping[str, Sequence[Any]]
    """All as long."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, column: str) -> Sequence[Any]:
        return self.columns[column]

    def pick(self, rows: Sequence[int]) -> Examples:
        """The given rows, in the given order."""
        return Examples({name: packed(values[i] for i in rows) for name, values in self.columns.items()})

    def followed_by(self, more: Examples) -> Examples:
        """These rows and then others with the same columns."""
        return Examples({name: packed(chain(values, more.columns[name])) for name, values in self.columns.items()})


class Task(abc.ABC, Generic[Spec]):
    """One kind of data, read from a `DataSpec`. Abstract.

    Contract:

    * ``load`` reads and checks everything and raises `DataError` for whatever is wrong; the rest is used after it.
    * Nothing here moves a global random generator, except ``load_model`` where it must draw a new head.
    * Fingerprints are the same in any process for the same content, wherever the files lie.
    * Batches hold the model's inputs and, beside them, ``labels`` and declared masks (see `HuggingFaceAdaptor`).
    """

    name: ClassVar[str]
    """What recipes call it."""
    data: ClassVar[type[DataSpec]]
    """The section ``data`` of its recipes."""
    auto_class: ClassVar[Any]
    """The class of transformers that loads a model with this task's head."""
    head: ClassVar[str]
    """How the names of such models end, such as ``ForSequenceClassification``."""
    metric: str
    """The metric by which models are chosen; higher is better."""
    label_names: tuple[str, ...] = ()
    """What the head's outputs mean; empty where they have no names."""
    problem_type: str | None = None
    """What transformers calls it in the model's configuration."""
    num_heads: ClassVar[int] = 1
    """How many logits heads such a model has."""
    predicts: ClassVar[Predicts] = "rows"
    """What the logits are of, as `HuggingFaceAdaptor` names it."""
    classes_are_tokens: ClassVar[bool] = False
    """Whether a logit is that of a token, so that only models with the same token ids can be compared."""
    reads: frozenset[Key] = frozenset({LOGITS})
    """The tensors that ``judged`` reads."""
    kd_losses: tuple[str, ...] | None = None
    """The losses between logits that make sense here, the usual one first; None: any."""
    num_rows: dict[str, int]
    """Rows of ``train``, ``validation`` and ``test``; a split that is not there is absent."""
    has_labels: ClassVar[bool] = True
    """Whether the data says what is right, so that a model can be trained without a teacher."""
    answers_rows: ClassVar[bool] = False
    """Whether a row has one answer whatever its tokens are, so that models with other tokenizers can be compared."""
    text_columns: ClassVar[TextColumns] = {}
    """The columns of the examples that a row's inputs are made of, each named as the setting of ``data`` that names it
    in files. Augmentation changes a "text" and a list of "words"; what is "kept" stays as it is."""
    label_columns: ClassVar[tuple[str, ...]] = ()
    """The columns of the examples that hold what is right: None in rows without a label."""
    repeats_inputs: ClassVar[bool] = True
    """Whether an epoch shows the same inputs as the one before, so that a teacher's answers can be kept."""
    shown_as: ClassVar[Mapping[str, str]] = {}
    """How columns of the examples are called where people see them, if not by their own name."""
    unsaid: ClassVar[str] = ""
    """Why what a model says of an example cannot be put in words, and what to do instead; empty if it can."""
    signal: ClassVar[Literal["logits", "embedding"]] = "logits"
    """What a teacher teaches: its logits, or the vectors that it gives texts."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.may_lack_labels = False
        """Whether training rows need no label, for something else says what is learned from them; not in every task."""
        self.read_also: Callable[[Rows, str], Mapping[str, Sequence[Any]]] | None = None
        """Gives further columns of a split's examples, which this task does not know of."""
        self._splits: dict[str, Examples] = {}
        self._num_added = 0

    # What each task says.

    @abc.abstractmethod
    def examples(self, rows: Rows, split: str) -> Examples:
        """The rows of a split, checked. ``train`` comes first. Raises `DataError` for the first row that is wrong."""

    @abc.abstractmethod
    def read_inputs(self, rows: Rows) -> dict[str, Sequence[Any]]:
        """The columns of examples that a model reads, without what is right. Raises `DataError` for a wrong row."""

    @abc.abstractmethod
    def gold(self, examples: Examples) -> list[Any]:
        """What is right, example by example, in the words in which answers are said; None where nobody knows."""

    @abc.abstractmethod
    def adaptor(self) -> Adaptor:
        """What translates the outputs of such models."""

    @abc.abstractmethod
    def encoded(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        """Examples as token ids."""

    @abc.abstractmethod
    def judged(self, encoded: EncodedSplit, outputs: Answers) -> Judgement:
        """A model's ``outputs`` to the rows of ``encoded``, which come in any order, as answers that can be judged."""

    def hard_loss(self) -> Loss:
        """The loss between the student's answers and the labels in the data, if there are labels."""
        return HardLabels()

    # What all tasks do.

    @final
    @property
    def limits_rows(self) -> bool:
        """Whether rows beyond a limit need not be looked at: where label names are listed, none are learned of them."""
        return getattr(self.spec, "label_names", None) is not None

    def load(self) -> None:
        """Read and check all splits. Raises `DataError`."""
        spec = self.spec
        sources = {"train": spec.train, "validation": spec.validation, "test": spec.test}
        splits = {split: self._read(source, split) for split, source in sources.items() if source is not None}
        if "validation" not in splits:
            splits["train"], splits["validation"] = _hold_out(splits["train"], spec.train)
        if spec.limit is not None:
            splits["train"] = splits["train"].pick(range(min(spec.limit, len(splits["train"]))))
        self._splits = splits
        self.num_rows = {split: len(splits[split]) for split in sources if split in splits}

    @final
    def labelled(self, rows: Rows, split: str) -> Examples:
        """What `examples` gives; a column that is not there is told with the setting that names it."""
        return self.examples(self._for_reading(rows), split)

    @final
    def unlabelled(self, rows: Rows) -> Examples:
        """Rows of which nobody says what is right, for a model to answer. Raises `DataError` for one that is wrong."""
        inputs = self.read_inputs(self._for_reading(rows))
        num_rows = len(next(iter(inputs.values())))
        return Examples({**inputs, **{name: [None] * num_rows for name in self.label_columns}})

    @final
    def inputs(self, examples: Examples) -> list[dict[str, Any]]:
        """What a model reads of each example, for people."""
        columns = {self.shown_as.get(name, name): examples[name] for name in self.text_columns
                   if name in examples.columns}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _for_reading(self, rows: Rows) -> Rows:
        return dataclasses.replace(rows, wanted=self.spec.wanted_columns())

    def _read(self, source: str, split: str) -> Examples:
        rows = read_rows(source, split)
        limit = self.spec.limit
        if limit is not None and split == "train" and self.spec.validation is not None and self.limits_rows:
            rows = rows.first(limit)
        examples = self.labelled(rows, split)
        return examples if self.read_also is None else Examples({**examples.columns, **self.read_also(rows, split)})

    @final
    def add_examples(self, more: Examples) -> None:
        """Further training rows without labels, such as `stillhouse.tasks.augmentation` makes."""
        self._splits["train"] = self.split("train").followed_by(more)
        self.num_rows["train"] = len(self._splits["train"])
        self._num_added += len(more)

    @final
    @property
    def num_labelled(self) -> int:
        """The training rows without those that were added; they come first."""
        return len(self.split("train")) - self._num_added

    @final
    def split(self, split: str) -> Examples:
        """The rows of a split. Raises `DataError` for one that is not there."""
        if split not in self._splits:
            raise DataError(f"there is no {split} split; set data.{split}. There are: "
                            f"{', '.join(self._splits) or 'none, since load() has not been called'}")
        return self._splits[split]

    @final
    @property
    def fingerprint(self) -> str:
        """A hash of all splits' rows, the label names and the settings of the data, as hexadecimal digits."""
        return _hash([[split, self.split_fingerprint(split)] for split in sorted(self._splits)])

    @final
    def split_fingerprint(self, split: str) -> str:
        """The same of one split."""
        settings = {name: getattr(self.spec, name) for name in self.spec.decides}
        rows = self.split(split)
        return _hash([self.name, self.label_names, settings], ([name, start, rows[name][start : start + STRETCH]]
                     for name in sorted(rows.columns) for start in range(0, len(rows), STRETCH)))

    @final
    def load_model(self, path: str, *, attn_implementation: str | None = None) -> PreTrainedModel:
        """A model with a head for this task, in float32 on the CPU, from a folder or hub id.

        Raises `ConfigError` if there is none, `PlanError` if its head or its length does not fit.
        """
        return pretrained.load_model(path, self.model_wanted, attn_implementation)

    @final
    @property
    def model_wanted(self) -> pretrained.ModelWanted:
        """What `stillhouse.tasks.pretrained` has to know to load and check such models."""
        return pretrained.ModelWanted(self.auto_class, self.head, self.label_names, self.spec.max_length,
                                      self.problem_type, self.num_heads if self.num_heads > 1 else None)

    @final
    def load_tokenizer(self, path: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a folder or hub id. Raises `ConfigError`."""
        return pretrained.load_tokenizer(path)

    @final
    def encode(self, split: str, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        """A split's rows as token ids. Raises `DataError` for a split that is not there."""
        return self.encoded(self.split(split), tokenizer)

    @final
    def loader(self, encoded: EncodedRows, *, batch_size: int, seed: int, shuffle: bool) -> BucketLoader:
        """Micro-batches of encoded rows, to be iterated once an epoch."""
        return BucketLoader(
            encoded, BucketSampler(encoded.lengths, batch_size=batch_size, seed=seed, shuffle=shuffle)
        )

    @final
    def evaluate(
        self,
        model: nn.Module,
        encoded: EncodedSplit,
        *,
        batch_size: int = 64,
        autocast_dtype: torch.dtype | None = None,
    ) -> Judgement:
        """Ask the model, in eval mode and without a graph, on its own device; its sub-modules' modes are restored."""
        return self.judged(encoded, answers(model, self.adaptor(), encoded, self.reads, batch_size=batch_size,
                                            autocast_dtype=autocast_dtype))


def _hold_out(train: Examples, source: str) -> tuple[Examples, Examples]:
    if len(train) < 2:
        raise DataError(f"{source}: one row cannot be both trained on and held out; set data.validation")
    held_out = set(random.Random(0).sample(range(len(train)), max(1, round(HELD_OUT * len(train)))))
    kept = [index for index in range(len(train)) if index not in held_out]
    return train.pick(kept), train.pick(sorted(held_out))


def _hash(value: Any, more: Iterable[Any] = ()) -> str:
    """Of a value that JSON can hold, and of more of them one by one."""
    digest = hashlib.blake2b(json.dumps(value).encode(), digest_size=16)
    for part in more:
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()
