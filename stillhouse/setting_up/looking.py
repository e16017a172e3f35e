"""What a data file seems to hold: which column is the text, which the label, which task that makes.

These are guesses that people confirm or replace, so a wrong one costs a question and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

from stillhouse.tasks.data_files import Rows

Kind = Literal["text", "number", "texts", "numbers", "answers", "other"]

_SAMPLE = 2000
"""Rows that a column's kind and lengths are taken from, spread over the file."""
_FEW = 20
"""Of less rows one cannot tell whether values come again, so that the column's name decides."""
_TEXT_NAMES = ("text", "sentence", "content", "utterance", "query", "question", "review", "comment", "message", "body",
               "document", "title", "description", "docstring")
_LABEL_NAMES = ("label", "labels", "intent", "category", "class", "target", "sentiment", "topic", "emotion", "y", "tag",
                "score", "rating", "stars")
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"),
          ("text_a", "text_b"), ("text", "text_pair"))
_SCORE_NAMES = ("score", "similarity", "similarity_score", "label")
_TAG_NAMES = ("ner_tags", "tags", "labels", "pos_tags", "upos")
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_PIECES = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")
_LETTERS_OF_A_PIECE = 8


@final
@dataclass(frozen=True, eq=False)
class Look:
    """The columns of a file, looked at."""

    rows: Rows

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """What each column holds."""
        return {name: _kind(self.sample(name), self.rows.is_typed) for name in self.rows.columns}

    def sample(self, column: str) -> list[Any]:
        """Some values of a column, from all over the file, without missing ones."""
        values = self.rows.columns[column]
        step = max(1, len(values) // _SAMPLE)
        return [values[index] for index in range(0, len(values), step) if values[index] is not None]

    def of_kind(self, *kinds: Kind) -> list[str]:
        """The columns that hold one of these."""
        return [name for name, kind in self.kinds.items() if kind in kinds]

    def task(self) -> str:
        """The task that such columns are usually for."""
        if "paragraphs" in self.rows.columns or (self.of_kind("answers") and len(self.of_kind("text")) > 1):
            return "question-answering"
        if self._tag_columns():
            return "token-classification"
        return "text-classification" if self.label() else "sentence-embedding"

    def text(self, task: str) -> tuple[str, ...]:
        """The columns that a model would read; none if there is no such column."""
        if task == "question-answering":
            contexts = [name for name in self.of_kind("text") if "question" not in name.lower()]
            questions = [name for name in self.of_kind("text") if "question" in name.lower()]
            context = self._named(("context", "passage"), contexts) or self._longest(contexts)
            return (questions[0], context) if questions and context else ()
        if task == "token-classification":
            words = self.of_kind("texts")
            named = self._named(("tokens", "words"), words)
            return tuple(name for name in (named, *words) if name and name != self.label_of(task))[:1]
        pair = self._pair()
        if pair:
            return pair
        texts = [name for name in self.of_kind("text") if name != self.label() or task == "sentence-embedding"]
        named = self._named(_TEXT_NAMES, texts) or self._longest(texts)
        return (named,) if named else ()

    def label_of(self, task: str) -> str:
        """The column with what is right; empty if there is none. Of sentence pairs it is their score."""
        if task == "question-answering":
            return next(iter(self.of_kind("answers")), "answers" if "paragraphs" in self.rows.columns else "")
        if task == "token-classification":
            return next(iter(self._tag_columns()), "")
        if task == "sentence-embedding":
            numbers = self.of_kind("number")
            return self._named(_SCORE_NAMES, numbers) or (numbers[0] if len(numbers) == 1 else "")
        return self.label()

    def label(self) -> str:
        """The column with the label of a text; empty if no column looks like one."""
        taken = self._pair()
        free = [name for name in self.of_kind("text", "number", "texts", "numbers") if name not in taken]
        able = [name for name in free if self._repeats(name)]
        named = self._named(_LABEL_NAMES, free if len(self.rows) < _FEW else able)
        if named:
            return named
        plain = [name for name in able if self.kinds[name] in ("text", "number")]
        fewest = min(plain, key=self._num_values, default="")
        return fewest if set(self.of_kind("text")) - {fewest} else ""  # something has to be left to read

    def labels_kind(self, column: str) -> str:
        """``labels:`` of a text classification: single, multi or regression."""
        if self.kinds.get(column) in ("texts", "numbers"):
            return "multi"
        values = self.sample(column) if column in self.rows.columns else []
        is_measured = self.kinds.get(column) == "number" and any(not float(value).is_integer() for value in values)
        return "regression" if is_measured else "single"

    def _tag_columns(self) -> list[str]:
        """Columns of lists as long as those of another column of lists, row by row."""
        lists = self.of_kind("texts", "numbers")
        found = [name for name in lists if any(
            other != name and self.kinds[other] == "texts" and self._are_as_long(name, other) for other in lists)]
        named = self._named(_TAG_NAMES, found)
        few = sorted((name for name in found if name not in ("tokens", "words")), key=self._num_values)
        return [name for name in (named, *few) if name][:1] if len(found) else []

    def _are_as_long(self, first: str, second: str) -> bool:
        pairs = zip(self.rows.columns[first][:100], self.rows.columns[second][:100], strict=True)
        return all(a is not None and b is not None and len(a) == len(b) for a, b in pairs)

    def _pair(self) -> tuple[str, ...]:
        texts = set(self.of_kind("text"))
        return next((pair for pair in _PAIRS if texts.issuperset(pair)), ())

    def _repeats(self, column: str) -> bool:
        """Whether values come several times, as labels do, or are measured numbers."""
        return self.labels_kind(column) != "single" or 1 < self._num_values(column) <= max(2, len(self.rows) // 2)

    def _num_values(self, column: str) -> int:
        values = self.rows.columns[column]
        if self.kinds[column] in ("texts", "numbers"):
            return len({item for value in self.sample(column) for item in value})
        return len({str(value) for value in values if value is not None})

    def _named(self, names: Sequence[str], columns: Sequence[str]) -> str:
        """The column with the first of these names, whatever its case; empty if none has one."""
        by_name = {column.lower(): column for column in reversed(columns)}
        return next((by_name[name] for name in names if name in by_name), "")

    def _longest(self, columns: Sequence[str]) -> str:
        return max(columns, key=lambda name: sum(map(len, self.sample(name))) / max(1, len(self.sample(name))),
                   default="")


def _kind(values: Sequence[Any], is_typed: bool) -> Kind:
    if not values:
        return "other"
    if all(isinstance(value, str) for value in values):
        return "number" if not is_typed and all(map(_is_number, values)) else "text"
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return "number" if all(map(math.isfinite, values)) else "other"
    if all(isinstance(value, dict) and "text" in value for value in values):
        return "answers"
    if not all(isinstance(value, (list, tuple)) for value in values):
        return "other"
    items = [item for value in values for item in value]
    if all(isinstance(item, str) for item in items):
        return "texts"
    if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return "numbers"
    return "answers" if all(isinstance(item, dict) and "text" in item for item in items) else "other"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def tokens_about(text: str) -> int:
    """About how many tokens a text is: its words and signs, long words in pieces, CJK characters one by one."""
    return sum(1 + (len(piece) - 1) // _LETTERS_OF_A_PIECE for piece in _PIECES.findall(text))


def nearly_longest(lengths: Iterable[int]) -> int:
    """What 99 of 100 lengths do not exceed; 0 of none."""
    ordered = sorted(lengths)
    return ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)] if ordered else 0


def is_mostly_latin(texts: Iterable[str]) -> bool:
    """Whether most letters are of the Latin alphabet."""
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return 2 * sum(letter < "\u0250" for letter in letters) >= len(letters)


def is_mostly_cjk(texts: Iterable[str]) -> bool:
    """Whether most letters are Chinese characters or those of Japanese and Korean."""
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return 2 * sum("\u2e80" <= letter <= "\ufaff" for letter in letters) > len(letters)


def label_file(train: str) -> str | None:
    """The file beside the training data that lists the names of labels, if there is one called like that."""
    path = Path(train).expanduser()
    found = [name for name in ("labels.json", "labels.txt") if path.is_file() and path.with_name(name).is_file()]
    return str(Path(train).with_name(found[0])) if found else None


def beside(train: str, names: Sequence[str]) -> str | None:
    """The file beside ``.../train.csv`` that is called ``.../NAME.csv``, with the first of these names; else None."""
    path = Path(train).expanduser()
    if not path.is_file() or "train" not in path.name:
        return None
    found = [name for name in names if path.with_name(path.name.replace("train", name)).is_file()]
    return str(Path(train).with_name(path.name.replace("train", found[0]))) if found else None
