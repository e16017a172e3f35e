"""On which rows a student and what was exported of it are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.errors import StillhouseError, first_line
from stillhouse.finished import FinishedRun
from stillhouse.recipe.reading import load_task
from stillhouse.tasks import EncodedSplit, Examples, Task

_MADE_UP_ROWS, _MADE_UP_LENGTH, _MADE_UP_CHOICES = 64, 64, 4


@final
@dataclass(frozen=True, eq=False)
class ComparedRows:
    """Rows that both can answer.

    Attributes:
        source: what they are, in words.
        task: of the run, with all its data if that is still there.
        encoded: as the student reads them.
        examples: the same before that; None for tokens that were made up.
        has_data: whether the run's data is there, so that answers can be judged, and a teacher be found.
        note: why these are not the rows that the run reported; empty if they are.
    """

    source: str
    task: Task[Any]
    encoded: EncodedSplit
    examples: Examples | None
    has_data: bool = False
    note: str = ""

    def __len__(self) -> int:
        return len(self.encoded if self.examples is None else self.examples)


def rows_to_compare(run: FinishedRun, model: PreTrainedModel, limit: int | None) -> ComparedRows:
    """The run's test data, or its validation data where there is none; without them what is nearest.

    That is the texts of ``predictions.jsonl``, or made-up tokens. ``limit``: take the first so many rows only.
    """
    tokenizer = run.tokenizer()
    if not run.values:
        return _made_up(run.task, model, tokenizer, "a model's folder does not say what data it was made for")
    try:
        task = _loaded_task(run)
        _require_same_labels(task, run.task)
        split = "test" if "test" in task.num_rows else "validation"
        examples = _first(task.split(split), limit)
        return ComparedRows(f"the {split} data", task, task.encoded(examples, tokenizer), examples, True)
    except StillhouseError as error:
        note = (f"the data of the run cannot be read from here ({_reason(error)}); paths that are relative are "
                "looked for in the current directory")
    kept = _kept_texts(run, limit)
    if kept is None:
        return _made_up(run.task, model, tokenizer, note)
    try:
        encoded = run.task.encoded(kept, tokenizer)
    except (StillhouseError, KeyError, TypeError) as error:
        return _made_up(run.task, model, tokenizer, f"{note}, nor can predictions.jsonl ({_reason(error)})")
    return ComparedRows("the texts in predictions.jsonl", run.task, encoded, kept, note=note)


def _loaded_task(run: FinishedRun) -> Task[Any]:
    assert run.recipe is not None  # a run has one
    return load_task(run.recipe)


def _require_same_labels(task: Task[Any], then: Task[Any]) -> None:
    if tuple(task.label_names) != tuple(then.label_names):
        raise StillhouseError(f"it has the labels {', '.join(task.label_names)} now")


def _first(examples: Examples, limit: int | None) -> Examples:
    return examples if limit is None or limit >= len(examples) else examples.pick(range(limit))


def _kept_texts(run: FinishedRun, limit: int | None) -> Examples | None:
    """The inputs in ``predictions.jsonl`` as examples without labels; None if there are none."""
    path = run.path / "predictions.jsonl"
    try:
        with path.open(encoding="utf-8", newline="\n") as file:  # a text may hold what else ends a line, as U+2028 does
            inputs: list[Mapping[str, Any]] = [json.loads(line)["inputs"] for line in islice(file, limit)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not inputs:
        return None
    task = run.task
    names = {name: task.shown_as.get(name, name) for name in task.text_columns}
    columns: dict[str, Sequence[Any]] = {name: [row.get(shown) for row in inputs] for name, shown in names.items()
                                         if shown in inputs[0]}
    return Examples({**columns, **{name: [None] * len(inputs) for name in task.label_columns}})


def _made_up(task: Task[Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, note: str) -> ComparedRows:
    """Tokens drawn from the vocabulary, always the same, in rows of all lengths up to 64 or what the model reads."""
    random = np.random.RandomState(0)
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([number for number in range(min(len(tokenizer), model.config.vocab_size))
                         if number not in special])
    choices = _MADE_UP_CHOICES if task.predicts == "choices" else 0
    longest = min(_MADE_UP_LENGTH, task.spec.max_length)
    lengths = random.randint(1, longest + 1, _MADE_UP_ROWS * max(1, choices))
    ids = [random.choice(ordinary, length).tolist() for length in lengths]
    tokens = {"input_ids": ids}
    if "token_type_ids" in tokenizer.model_input_names:
        tokens["token_type_ids"] = [[0] * len(row) for row in ids]
    encoded = EncodedSplit.of(tokenizer, tokens, {}, choices=choices)
    return ComparedRows("made-up tokens", task, encoded, None, note=note)


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(". ")
