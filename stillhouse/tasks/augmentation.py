"""Further training rows without labels: texts that have none, and changed copies of rows. The teacher labels them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, final

import numpy as np
from pydantic import AfterValidator, model_validator

from stillhouse import augment
from stillhouse.errors import ConfigError, DataError, unknown_name
from stillhouse.sections import Section
from stillhouse.sections.values import AS_IT_IS, Columns, Count, Files, OneOrMore, Seed
from stillhouse.tasks.base import Examples, Task
from stillhouse.tasks.columns import place, text_lists, texts
from stillhouse.tasks.data_files import Rows, read_rows

FUNCTIONS: Mapping[str, Callable[..., list[Any]]] = {name: getattr(augment, name) for name in augment.__all__}
TRIES = 8
"""How often a function is drawn and called until a copy is neither empty nor the same as its row."""

_CHINESE_OR_JAPANESE = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_PIECE = re.compile(rf"{_CHINESE_OR_JAPANESE.pattern}|\s+|(?:(?!{_CHINESE_OR_JAPANESE.pattern})\S)+")
_LONGEST_WORD = 4  # Chinese words are rarely longer, so more characters between spaces are a sentence


def _function(value: Any) -> Any:
    arguments: Mapping[str, Any] = {}
    if isinstance(value, str):
        name = value
    elif isinstance(value, Mapping) and len(value) == 1 and isinstance(next(iter(value.values())), Mapping):
        name, arguments = next(iter(value.items()))
    else:
        raise ValueError(f"{value!r}: write a name, or a name with arguments, as in {{masking: {{p: 0.1}}}}; "
                         f"known: {', '.join(FUNCTIONS)}")
    if name not in FUNCTIONS:
        raise ValueError(unknown_name("augmentation", name, FUNCTIONS))
    known = [p for p in inspect.signature(FUNCTIONS[name]).parameters if p not in ("tokens", "rng")]
    for argument in arguments:
        if argument not in known:
            raise ValueError(unknown_name(f"argument of {name}", argument, known))
    if not isinstance(arguments.get("mask", ""), str):
        raise ValueError(f"{name}: the mask {arguments['mask']!r} is no text")
    try:
        FUNCTIONS[name](["a", "b", "c"], **arguments, rng=np.random.RandomState(0))
    except (ConfigError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error
    return value


FunctionChoice = Annotated[Any, AfterValidator(_function), AS_IT_IS]


class Augmentation(Section):
    """More training rows. None of them has a label, so they teach what the teacher says and nothing else."""

    unlabelled: Files = ()
    """Texts without labels: files, folders or hub ids with the task's text columns (others are not read); a .txt file
    has a text a line. A row that is in the validation or test data, or was there before, is left out."""
    text: Columns | None = None
    """The columns of these files, if they are not called as in the training data."""
    limit: Count | None = None
    """Take the first so many unlabelled rows only."""
    functions: Annotated[tuple[FunctionChoice, ...], OneOrMore] = ()
    """What copies are changed by: masking, deleting, n_gram_sampling, short_disorder, long_disorder, or one with
    arguments, as in {masking: {p: 0.1}}; a list of such. They act on words, or on Chinese or Japanese characters.
    long_disorder changes texts of 20 words and more, unless told otherwise, as in {long_disorder: {length: 0.5}}."""
    copies: Count = 1
    """Changed copies of each training row, unlabelled ones included; each is changed by one of the functions, drawn."""
    seed: Seed = 0
    """Decides what is drawn; rows and copies are drawn for independently."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Augmentation:
        if not self.unlabelled and not self.functions:
            raise ValueError("nothing is added; give unlabelled: FILE, functions: [masking, ...], or both")
        for name, needed in (("text", "unlabelled"), ("limit", "unlabelled"), ("copies", "functions"),
                             ("seed", "functions")):
            if name in self.model_fields_set and not getattr(self, needed):
                raise ValueError(f"{name} says something about {needed}, of which there are none; give {needed}, or "
                                 f"leave {name} out")
        return self


@final
@dataclass(frozen=True, eq=False)
class Augmented:
    """The rows to be added, and what became of all that might have been."""

    examples: Examples
    """First the unlabelled rows, then the copies; None in every column of labels."""
    num_unlabelled: int
    num_copies: int
    num_held_out: int
    """Left out, for they are in the validation or test data."""
    num_repeated: int
    """Left out, for they were there already."""
    num_unchanged: int
    """Copies left out, for no draw changed them or left anything of them."""

    @property
    def description(self) -> str:
        """One line for people."""
        left_out = {"in the validation or test data": self.num_held_out, "there already": self.num_repeated,
                    "copies without a change": self.num_unchanged}
        shown = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
        return (f"augmentation: {self.num_unlabelled} unlabelled rows and {self.num_copies} changed copies, labelled "
                "by the teacher" + (f" (left out: {shown})" if shown else ""))


def augmented(task: Task[Any], choice: Augmentation, mask_token: str | None) -> Augmented:
    """The rows that a choice adds to the training data of a loaded task; give them to ``Task.add_examples``.

    No row keeps a label, for a changed text may mean something else: hard labels never see these rows, and the teacher
    says what they mean. The same choice and data give the same rows, with any version of numpy; no global random
    generator is read or moved. Raises `ConfigError` if the task or the mask token does not allow for it, `DataError`
    for a file that is wrong.

    Args:
        task: loaded, so that its splits are known.
        choice: what to add.
        mask_token: what ``masking`` writes, a token that the teacher's tokenizer knows; None if it has none.
    """
    train = task.split("train")
    kinds = {name: kind for name, kind in task.text_columns.items() if name in train.columns}
    if not kinds:
        raise ConfigError(f"augmentation: the task {task.name} does not say which of its columns are text")
    functions = _functions(choice, mask_token)
    sieve = _Sieve(task, list(kinds))
    found = sieve.passed(_unlabelled(task, choice, kinds), choice.limit) if choice.unlabelled else []
    num_unlabelled = len(found)
    sources = [*_rows_of(train), *found] if functions else []
    num_unchanged = 0
    for row, source in enumerate(sources):
        for copy in range(choice.copies):
            changed = _changed(source, kinds, functions, np.random.RandomState([choice.seed, copy, row]))
            num_unchanged += changed is None
            found += sieve.passed([] if changed is None else [changed])
    columns = {name: [None if name in task.label_columns else row[name] for row in found] for name in train.columns}
    return Augmented(Examples(columns), num_unlabelled, len(found) - num_unlabelled, sieve.num_held_out,
                     sieve.num_repeated, num_unchanged)


Row = Mapping[str, Any]
_Function = Callable[..., list[str]]


class _Sieve:
    """Lets a row pass once, and none that models are judged by.

    Where training rows are single texts, rows of pairs that models are judged by count as two.
    """

    def __init__(self, task: Task[Any], columns: Sequence[str]) -> None:
        self._columns = columns
        self._seen = {_name(row, columns) for row in _rows_of(task.split("train"))}
        self._held_out: set[str] = set()
        for split in task.num_rows.keys() - {"train"}:
            rows = task.split(split)
            there = [name for name in task.text_columns if name in rows.columns]
            for wanted in [[name] for name in there] if len(columns) == 1 else [there]:
                self._held_out |= {_name(row, wanted) for row in _rows_of(rows)}
        self.num_held_out = self.num_repeated = 0

    def passed(self, rows: Sequence[Row] | Iterator[Row], limit: int | None = None) -> list[Row]:
        """The first ``limit`` of the rows that pass, or all."""
        kept: list[Row] = []
        for row in rows:
            if len(kept) == limit:
                break
            name = _name(row, self._columns)
            self.num_held_out += name in self._held_out
            self.num_repeated += name in self._seen and name not in self._held_out
            if name not in self._held_out and name not in self._seen:
                self._seen.add(name)
                kept.append(row)
        return kept


def _name(row: Row, columns: Sequence[str]) -> str:
    """Equal for rows that differ at most in white space, or in how a text is cut into words."""
    values = [row[column] for column in columns]
    return repr([" ".join((value if isinstance(value, str) else " ".join(value)).split()) for value in values])


def _rows_of(examples: Examples) -> Iterator[Row]:
    names = list(examples.columns)
    return (dict(zip(names, values, strict=True)) for values in zip(*examples.columns.values(), strict=True))


def _unlabelled(task: Task[Any], choice: Augmentation, kinds: Mapping[str, str]) -> Iterator[Row]:
    beside = [name for name in task.split("train").columns if name not in kinds and name not in task.label_columns]
    beside += [name for name, kind in kinds.items() if kind == "kept" and not isinstance(getattr(task.spec, name), str)]
    if beside:
        raise ConfigError(f"augmentation.unlabelled: rows of the task {task.name} are more than texts (they have "
                          f"{', '.join(beside)}); leave unlabelled out, and use functions")
    named = [getattr(task.spec, name) for name in kinds]
    wanted = choice.text or tuple(chain.from_iterable([each] if isinstance(each, str) else each for each in named))
    if len(kinds) > 1 and len(wanted) != len(kinds):
        raise ConfigError(f"augmentation.text names {len(wanted)} columns ({', '.join(wanted)}), and the task has "
                          f"{len(kinds)}: {', '.join(kinds)}; name one for each, in this order")
    for source in choice.unlabelled:
        rows = read_rows(source)
        lines = choice.text is None and list(rows.columns) == ["text"]  # a text a line has no name of its own
        names = ("text",) if lines and len(kinds) == 1 else wanted
        for group in [[name] for name in names] if len(kinds) == 1 else [names]:
            columns = [_column(rows, column, kind) for column, kind in zip(group, kinds.values(), strict=True)]
            yield from (dict(zip(kinds, values, strict=True)) for values in zip(*columns, strict=True))


def _column(rows: Rows, column: str, kind: str) -> Sequence[Any]:
    """Texts, or lists of words; a text is cut into words as it is for the functions."""
    if kind != "words":
        return texts(rows, column)
    if not any(isinstance(value, str) for value in rows.column(column)):
        return text_lists(rows, column)
    words = [_tokens(value)[0] for value in texts(rows, column)]
    empty = next((index for index, value in enumerate(words) if not value), None)
    if empty is not None:
        raise DataError(f"{place(rows, empty, column)}: there is no word; leave the row out")
    return [[word for word in value if not word.isspace()] for value in words]


def _functions(choice: Augmentation, mask_token: str | None) -> list[_Function]:
    """The functions with their arguments, to be called with tokens and ``rng``."""
    found: list[_Function] = []
    for entry in choice.functions:
        name, arguments = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        if name == "masking" and "mask" not in arguments:
            if mask_token is None:
                raise ConfigError("augmentation.functions: masking writes the tokenizer's mask token, and this "
                                  "tokenizer has none; leave masking out, or name a token that it knows, as in "
                                  "{masking: {mask: <mask>}}")
            arguments = {**arguments, "mask": mask_token}
        found.append(_bound(FUNCTIONS[name], arguments))
    return found


def _bound(function: _Function, arguments: Mapping[str, Any]) -> _Function:
    return lambda tokens, rng: function(tokens, **arguments, rng=rng)


def _changed(row: Row, kinds: Mapping[str, str], functions: Sequence[_Function],
             rng: np.random.RandomState) -> Row | None:
    """The row with one function applied to each of its texts; None if no draw changes it without emptying a text."""
    for _ in range(TRIES):
        function = functions[int(rng.randint(len(functions)))]
        changed = dict(row)
        for name, kind in kinds.items():
            if kind != "kept":
                changed[name] = _applied(function, row[name], kind, rng)
        if changed != row and all(bool(changed[name]) == bool(row[name]) for name in kinds):
            return changed
    return None


def _applied(function: _Function, value: Any, kind: str, rng: np.random.RandomState) -> Any:
    if kind == "words":
        return function(value, rng=rng)
    tokens, between = _tokens(value)
    found = between.join(function(tokens, rng=rng)) if tokens else value
    return value if found == between.join(tokens) else found


def _tokens(text: str) -> tuple[list[str], str]:
    """What the functions act on, and what stands between it: words, or characters where there is no space to cut at.

    A Chinese or Japanese text is cut into its characters (what is written in other letters stays whole) unless spaces
    cut it into words.
    """
    words = text.split()
    characters = len(_CHINESE_OR_JAPANESE.findall(text))
    if characters and (len(words) == 1 or characters > _LONGEST_WORD * len(words)):
        return _PIECE.findall(text), ""
    return words, " "
