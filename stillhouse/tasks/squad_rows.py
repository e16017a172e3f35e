"""Questions, contexts and answers in the forms that SQuAD has on the hub and in its own files, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.errors import DataError
from stillhouse.tasks.columns import place
from stillhouse.tasks.data_files import Rows

_FORM = 'write {"text": ["...", ...], "answer_start": [12, ...]}'


def flattened(rows: Rows) -> Rows:
    """One row a question of a file in SQuAD's own form (articles of paragraphs of ``qas``); other rows as they are.

    The columns are ``question``, ``context`` and ``answers``. Raises `DataError` where the form is broken off.
    """
    if "paragraphs" not in rows.columns or "context" in rows.columns:
        return rows
    found: dict[str, list[Any]] = {"question": [], "context": [], "answers": []}
    places: list[int] = []
    for index, paragraphs in enumerate(rows.column("paragraphs")):
        where = rows.where(index)
        for paragraph in _objects(paragraphs, f"{where}, paragraphs"):
            for asked in _objects(paragraph.get("qas"), f"{where}, qas of a paragraph"):
                found["question"].append(asked.get("question"))
                found["context"].append(paragraph.get("context"))
                found["answers"].append(asked.get("answers"))
                places.append(index)
    if not places:
        raise DataError(f"{rows.source}: there are no questions in the paragraphs; give a file with at least one")
    return Rows(rows.source, found, places=places)


def gold_answers(rows: Rows, column: str, contexts: Sequence[str], *, may_be_none: bool,
                 need_starts: bool) -> list[dict[str, Any]]:
    """``{"text": [...], "answer_start": [...]}`` of every row; ``answer_start`` is None if not needed and not given.

    Raises `DataError` for anything else in the column (lists of ``{"text", "answer_start"}`` aside), for an answer that
    does not stand in its context where it says, and for a question without an answer unless there ``may_be_none``.
    """
    found = []
    for index, (value, context) in enumerate(zip(rows.column(column), contexts, strict=True)):
        where = place(rows, index, column)
        texts, starts = _texts_and_starts(value, where)
        if not texts and not may_be_none:
            raise DataError(f"{where}: the question has no answer; leave the row out, or set data.no_answer to true if "
                            "the model is to learn which questions have none")
        if starts is None and need_starts:
            raise DataError(f"{where}: there is no answer_start, without which nothing can be trained; {_FORM}, "
                            "where answer_start counts the characters of the context before the answer")
        for text, start in zip(texts, starts or (), strict=starts is not None):
            _require_at(text, start, context, where)
        found.append({"text": texts, "answer_start": starts})
    return found


def _texts_and_starts(value: Any, where: str) -> tuple[list[str], list[int] | None]:
    if isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value):
        texts: Any = [item.get("text") for item in value]
        starts: Any = [item.get("answer_start") for item in value]
        starts = None if starts and all(start is None for start in starts) else starts
    elif isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
    else:
        shown = "there are no answers" if value is None else f"{value!r:.80} is of type {type(value).__name__}"
        raise DataError(f"{where}: {shown}; {_FORM} (JSON and parquet files hold such), with empty lists for a "
                        "question without an answer")
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{where}: the answers' text is {texts!r:.80}, which is no list of texts with something in "
                        f"them; {_FORM}, with empty lists for a question without an answer")
    if starts is None and texts:
        return list(texts), None
    starts = [] if starts is None else starts
    if not isinstance(starts, (list, tuple)) or not all(type(start) is int for start in starts):
        raise DataError(f"{where}: answer_start is {starts!r:.80}, which is no list of whole numbers; {_FORM}")
    if len(starts) != len(texts):
        raise DataError(f"{where}: {len(texts)} texts but {len(starts)} of answer_start; there must be one for each")
    return list(texts), list(starts)


def _require_at(text: str, start: int, context: str, where: str) -> None:
    """Raise `DataError` unless the answer stands in the context where it says."""
    end = start + len(text)
    if start >= 0 and context[start:end] == text:
        return
    if not 0 <= start < len(context):
        problem = f"answer_start {start} of answer {text!r:.80} is outside the context of {len(context)} characters"
    else:
        problem = f"answer {text!r:.80} has answer_start {start}, but the context has {context[start:end]!r:.80} there"
    right = context.find(text)
    hint = "it is nowhere in the context" if right < 0 else f"it first stands at {right}"
    raise DataError(f"{where}: {problem} ({hint}); answer_start counts characters, from 0. Correct it, or leave "
                    "the answer out (validation and test data may leave out answer_start altogether)")


def _objects(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, Mapping) for item in value):
        raise DataError(f"{where}: {value!r:.80} is no list of objects, as SQuAD's form has it: "
                        '{"paragraphs": [{"context": "...", "qas": [{"question": "...", "answers": [...]}]}]}')
    return list(value)
