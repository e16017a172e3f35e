"""``stillhouse init``: five questions, each with a default from the data, and a recipe that ``plan`` accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from stillhouse.errors import ConfigError, DataError, UsageError, unknown_name
from stillhouse.recipe import yaml_files
from stillhouse.recipe.schema import Recipe
from stillhouse.setting_up.advice import advice
from stillhouse.setting_up.looking import Look, beside, label_file, nearly_longest, tokens_about
from stillhouse.setting_up.questions import Answerer, answered
from stillhouse.setting_up.recipe_text import Choices, recipe_text
from stillhouse.setting_up.suggestions import STUDENT, STUDENTS, require_model, student_section, usual_teacher
from stillhouse.tasks import TASKS, Task
from stillhouse.tasks.data_files import read_rows

KNOWN_TASKS = ("text-classification", "token-classification", "question-answering", "sentence-embedding")
_NEIGHBOURS = {"validation": ("validation", "valid", "dev", "val", "eval"), "test": ("test",)}
"""What files with the other splits are called, beside one called train."""
_LENGTH_STEP, _SHORTEST, _LONGEST = 16, 32, 512
_MOST_LABELS_SHOWN = 8


@final
@dataclass(frozen=True)
class Flags:
    """What was given on the command line; None is asked for."""

    data: str | None = None
    text: Sequence[str] = ()
    label: str | None = None
    teacher: str | None = None
    student: str | None = None
    task: str | None = None
    validation: str | None = None
    test: str | None = None
    output: str | None = None


@final
@dataclass(frozen=True)
class NewRecipe:
    """A recipe that was written, and what there is to say about it."""

    text: str
    summary: str
    notes: Sequence[str]


def new_recipe(flags: Flags, answerer: Answerer, path: str) -> NewRecipe:
    """Ask what no flag says, check the data, and compose the recipe that will be the file ``path``.

    Raises `UsageError` for flags that cannot be, for data that is wrong, and for what nobody answers.
    """
    sources = _Sources()
    train = answered(flags.data, answerer, "--data", "The file with the training data", "", sources.require)
    look = sources.look(train)
    name = _task_of(flags, look)
    columns = _columns(flags, answerer, look, name)
    data = {"train": train, **_spec_of(name, columns, sources, answerer, replace(flags, data=train))}
    task, data, notes = _loaded(name, data, flags)
    length = nearly_longest(_lengths(look, columns))
    choices = Choices(name, data, "", {}, "", task.num_rows["train"], length, _max_length(name, length))
    sample = [text for column in columns if look.kinds.get(column) == "text" for text in look.sample(column)[:200]]
    teacher = answered(flags.teacher, answerer, "--teacher", "The teacher (a folder or hub id)",
                       usual_teacher(name, sample), require_model)
    student = answered(flags.student, answerer, "--student", f"The student ({', '.join(STUDENTS)}, a number of layers "
                       "or a folder)", STUDENT, student_section)
    output = flags.output or f"runs/{_stem(train)}"
    choices = replace(choices, teacher=teacher, student=student_section(student), output=output)
    text = recipe_text(choices, path)
    _check(text, path)
    return NewRecipe(text, _summary(task, columns, data), [*_header_note(look, data), *notes, *advice(task)])


def _header_note(look: Look, data: Mapping[str, Any]) -> list[str]:
    """That the file may have no header: its first row is taken for one, and holds a label."""
    label = str(data.get("label"))
    if label not in look.rows.columns or label not in map(str, look.rows.columns[label]):
        return []
    return [f"the first row ({', '.join(map(str, look.rows.columns))}) is taken as the names of the columns, but "
            f"{label!r} is a label in other rows too; if it is a row, write a header above it"]


@final
class _Sources:
    """Rows by where they are from, each read once."""

    def __init__(self) -> None:
        self._read: dict[str, Look] = {}

    def look(self, source: str) -> Look:
        """Raises `UsageError` for what cannot be read."""
        if source not in self._read:
            self._read[source] = Look(read_rows(source))
        return self._read[source]

    def require(self, source: str) -> None:
        """Raise `UsageError` for what cannot be read, and for nothing."""
        if not source:
            raise ConfigError("give a file")
        self.look(source)


def _task_of(flags: Flags, look: Look) -> str:
    if flags.task is None:
        found = look.task()
        is_labelled = flags.label is not None and flags.validation is None  # else it is the score of a pair
        return "text-classification" if found == "sentence-embedding" and is_labelled else found
    if flags.task not in KNOWN_TASKS:
        raise ConfigError(f"--task: {unknown_name('task', flags.task, KNOWN_TASKS)}; other tasks' recipes are written "
                          "by hand, as docs/recipes.md shows")
    return flags.task


def _columns(flags: Flags, answerer: Answerer, look: Look, task: str) -> tuple[str, ...]:
    """The columns that the model reads."""
    if "paragraphs" in look.rows.columns and task == "question-answering":
        return ("question", "context")
    what, number = {"token-classification": ("The column with the lists of words", "one column"),
                    "question-answering": ("The columns with question and context", "two columns"),
                    "sentence-embedding": ("The column with the texts, or several", "at least one column"),
                    "text-classification": ("The column with the text, or two of a pair", "one column or two")}[task]
    fits = {"token-classification": (1,), "question-answering": (2,), "text-classification": (1, 2)}.get(task)

    def check(answer: str) -> None:
        columns = _split(answer, look)
        for column in columns:
            look.rows.column(column)
        if not columns or (fits is not None and len(columns) not in fits):
            raise ConfigError(f"{answer!r}: {task} reads {number}; there are: {', '.join(look.rows.columns)}")

    default = ",".join(look.text(task))
    given = ",".join(flags.text) if flags.text else None
    question = f"{what} (of {', '.join(look.rows.columns)})"
    return _split(answered(given, answerer, "--text", question, default, check), look)


def _split(answer: str, look: Look) -> tuple[str, ...]:
    """Columns with commas between; a column may have a comma in its own name."""
    if answer in look.rows.columns:
        return (answer,)
    return tuple(part.strip() for part in answer.split(",") if part.strip())


def _spec_of(task: str, columns: Sequence[str], sources: _Sources, answerer: Answerer,
             flags: Flags) -> dict[str, Any]:
    """The section ``data`` without the splits; for embeddings with the validation data, which they need."""
    if task == "sentence-embedding":
        return _pairs_spec(columns, sources, answerer, flags)
    look = sources.look(flags.data or "")
    if "paragraphs" in look.rows.columns:
        return {}
    question = {"token-classification": "The column with the lists of tags",
                "question-answering": "The column with the answers"}.get(task, "The column with the label")

    def check(answer: str) -> None:
        replace(look.rows, wanted=dict.fromkeys(columns, "")).column(answer)  # none of these is offered instead
        if answer in columns:
            raise ConfigError(f"{answer!r} is what the model reads; name another column with --label or with --text")

    column = answered(flags.label, answerer, "--label", f"{question} (of {', '.join(look.rows.columns)})",
                      look.label_of(task), check)
    if task == "question-answering":
        return {"question": columns[0], "context": columns[1], "answers": column}
    if task == "token-classification":
        return {"tokens": columns[0], "tags": column}
    pair = {"text_pair": columns[1]} if len(columns) == 2 else {}
    kind = look.labels_kind(column)
    return {"text": columns[0], **pair, "label": column, **({} if kind == "single" else {"labels": kind})}


def _pairs_spec(columns: Sequence[str], sources: _Sources, answerer: Answerer, flags: Flags) -> dict[str, Any]:
    """Sentence embeddings are judged by pairs with a score, in a file of their own."""
    default = beside(flags.data or "", _NEIGHBOURS["validation"]) or ""
    question = ("The file with scored pairs of sentences to judge by (this is sentence-embedding; for another task "
                "give --task, or the column with the --label)")
    source = answered(flags.validation, answerer, "--validation", question, default, sources.require)
    look = sources.look(source)
    pairs = (tuple(columns), look.text("sentence-embedding"), tuple(look.of_kind("text")[:2]))
    pair = next((pair for pair in pairs if len(pair) == 2 and look.rows.columns.keys() >= set(pair)), ())
    if not pair:
        raise DataError(f"{source}: scored pairs have two columns with sentences and one with a number; there are: "
                        f"{', '.join(look.rows.columns)}")
    score = flags.label or look.label_of("sentence-embedding")
    if not score:
        raise ConfigError(f"no column of {source} looks like the score of a pair; name it with --label (of "
                          f"{', '.join(look.rows.columns)})")
    look.rows.column(score)
    return {"validation": source, "text": list(columns) if len(columns) > 1 else columns[0], "pair": list(pair),
            "score": score}


def _loaded(name: str, data: Mapping[str, Any], flags: Flags) -> tuple[Task[Any], dict[str, Any], list[str]]:
    """The task with all its data read and checked, ``data`` with files that lie beside it and fit, and what to say."""
    given = {split: value for split, value in (("validation", flags.validation), ("test", flags.test)) if value}
    whole, notes = {**data, **given}, []
    named = _with_label_names(name, whole)
    if named is not None:
        whole, notes = named, [f"{named['label_names']} lies beside and names the labels, which are numbers"]
    found = {split: source for split, names in _NEIGHBOURS.items()
             if split not in whole and (source := beside(whole["train"], names)) is not None}
    try:
        task = _load(name, {**whole, **found})
    except UsageError:
        task = _load(name, whole)  # if these are wrong, that is what has to be told
        for split, source in list(found.items()):
            try:
                task, whole = _load(name, {**whole, split: source}), {**whole, split: source}
            except UsageError as error:
                del found[split]
                notes.append(f"{source} lies beside and is left out, for it cannot be the {split} data: {error}")
    notes += [f"{source} lies beside and is taken as the {split} data" for split, source in found.items()]
    return task, _ordered({**whole, **found}), notes


def _with_label_names(name: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """``data`` with the names of labels that are numbers, if a file beside the training data has as many; else None."""
    source = label_file(data["train"])
    if source is None or data.get("labels", "single") != "single" or not {"label", "tags"} & data.keys():
        return None
    try:
        numbers, named = (_load(name, given).label_names for given in (data, {**data, "label_names": source}))
    except UsageError:
        return None
    is_of_these = all(number.isdecimal() for number in numbers) and len(named) >= len(numbers)
    return {**data, "label_names": source} if is_of_these else None


def _load(name: str, data: Mapping[str, Any]) -> Task[Any]:
    task = TASKS[name](TASKS[name].data.of(**data))
    task.load()
    return task


def _ordered(data: Mapping[str, Any]) -> dict[str, Any]:
    """Splits first, as people write them."""
    splits = ("train", "validation", "test")
    return {**{split: data[split] for split in splits if split in data},
            **{key: value for key, value in data.items() if key not in splits}}


def _lengths(look: Look, columns: Sequence[str]) -> list[int]:
    """About how many tokens each row has, of a sample."""
    if any(column not in look.rows.columns for column in columns):
        return []
    samples = [look.sample(column) for column in columns]
    return [sum(map(tokens_about, (" ".join(value) if isinstance(value, (list, tuple)) else value for value in row)))
            + len(columns) + 1 for row in zip(*samples, strict=False)]


def _max_length(task: str, length: int) -> int | None:
    """Room for nearly all rows; questions and contexts are cut into windows, so they keep the task's default."""
    if task == "question-answering":
        return None
    return max(_SHORTEST, min(_LONGEST, -(-length // _LENGTH_STEP) * _LENGTH_STEP))


def _stem(source: str) -> str:
    """A name for what is made of a data source: the file's without suffixes, or its folder's if it is called train."""
    path = Path(source.partition("@")[0].partition(":")[0])
    stem = path.name.partition(".")[0]
    return (path.absolute().parent.name if stem.startswith("train") else stem) or "student"


def _check(text: str, path: str) -> None:
    Recipe.from_dict(yaml_files.parse(text, path), where=path)


def _summary(task: Task[Any], columns: Sequence[str], data: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{split} {number:,}" for split, number in task.num_rows.items())
    names = task.label_names
    shown = ", ".join(names[:_MOST_LABELS_SHOWN]) + (", ..." if len(names) > _MOST_LABELS_SHOWN else "")
    labels = f", {len(names)} labels ({shown})" if len(names) > 1 else ""
    held_out = "" if "validation" in data else " (held out)"
    return f"{task.name} of {' and '.join(columns)}{labels}; rows: {rows}{held_out}"
