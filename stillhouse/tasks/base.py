"""What a task is: data read and checked, models loaded for it, batches made of it, and answers judged."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.adaptors import Adaptor
from stillhouse.errors import ConfigError
from stillhouse.tasks.batching import BucketLoader, EncodedSplit

TASKS: dict[str, type[Task]] = {}
"""The tasks that a recipe can name."""


@dataclass(frozen=True)
class DataSpec:
    """Where the data is and which columns matter. Raises `ConfigError` for a length or limit that makes no sense.

    A split is a file (.json, .jsonl, .csv, .tsv, each also with .gz, or .parquet), a folder, or a hub id
    ``name[:config][@split]``.
    """

    train: str
    validation: str | None = None
    """If absent, a tenth of the train rows is held out; the choice depends on nothing but their number."""
    test: str | None = None
    text: str = "text"
    """The column with the text, or with the first text of a pair."""
    text_pair: str | None = None
    label: str = "label"
    label_names: str | tuple[str, ...] | None = None
    """The names, or a file with them: a JSON list, a JSON object with a list for the label column, or a name a line."""
    max_length: int = 128
    """Tokens a row, special tokens included; what is longer is cut, the longer text of a pair first."""
    limit: int | None = None
    """Train on the first so many rows only, after the hold-out; for quick tries."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"data.max_length is {self.max_length}: give a number of tokens of 1 or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit is {self.limit}: give a number of rows of 1 or more, or leave it out")


@dataclass(frozen=True, eq=False)
class Judgement:
    """A model's answers to one split, in the order of its rows, and how good they are."""

    metrics: dict[str, float]
    logits: Tensor
    """(N, C), float32, on the CPU."""
    labels: Tensor
    """(N,), int64, on the CPU."""


class Task(abc.ABC):
    """One kind of data, read from a `DataSpec`. Abstract.

    Contract:

    * ``load`` reads and checks everything and raises `DataError` for whatever is wrong; the rest is used after it.
    * Nothing here moves a global random generator, except ``load_model`` where it must draw a new head.
    * Fingerprints are the same in any process for the same content, wherever the files lie.
    """

    metric: str
    """The metric by which models are chosen; higher is better."""
    label_names: tuple[str, ...]
    num_rows: dict[str, int]
    """Rows of ``train``, ``validation`` and ``test``; a split that is not there is absent."""

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of all splits' rows, the label names and the length, as hexadecimal digits."""

    @abc.abstractmethod
    def split_fingerprint(self, split: str) -> str:
        """The same of one split."""

    @abc.abstractmethod
    def load(self) -> None:
        """Read and check all splits. Raises `DataError`."""

    @abc.abstractmethod
    def load_model(self, path: str, *, attn_implementation: str | None = None) -> PreTrainedModel:
        """A model with a head for this task, in float32 on the CPU, from a folder or hub id.

        Raises `ConfigError` if there is none, `PlanError` if its head or its length does not fit.
        """

    @abc.abstractmethod
    def load_tokenizer(self, path: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a folder or hub id. Raises `ConfigError`."""

    @abc.abstractmethod
    def adaptor(self) -> Adaptor:
        """What translates the outputs of such models."""

    @abc.abstractmethod
    def encode(self, split: str, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
        """A split's rows as token ids. Raises `DataError` for a split that is not there."""

    @abc.abstractmethod
    def loader(self, encoded: EncodedSplit, *, batch_size: int, seed: int, shuffle: bool) -> BucketLoader:
        """Micro-batches of encoded rows, to be iterated once an epoch."""

    @abc.abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        encoded: EncodedSplit,
        *,
        batch_size: int = 64,
        autocast_dtype: torch.dtype | None = None,
    ) -> Judgement:
        """Ask the model, in eval mode and without a graph, on its own device; its sub-modules' modes are restored."""
