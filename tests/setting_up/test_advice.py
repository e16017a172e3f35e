"""Promises of the advice about data: said where it is so, and not where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillhouse.setting_up.advice import advice
from stillhouse.tasks import TASKS

from .conftest import asked, labelled, tagged, write


def advice_on(folder: Path, rows: list[dict[str, Any]], name: str = "text-classification", **spec: Any) -> str:
    columns = {"text": "question", "label": "intent"} if name == "text-classification" else {}
    data = TASKS[name].data.of(train=write(folder / "train.jsonl", rows), **columns, **spec)
    task = TASKS[name](data)
    task.load()
    return "\n".join(advice(task))


def many() -> list[dict[str, Any]]:
    return [{"question": f"{row['question']} {index}", "intent": row["intent"]} for index, row in
            enumerate(labelled(400))]


def test_nothing_is_said_of_good_data(folder: Path) -> None:
    assert advice_on(folder, many()) == ""


def test_few_rows_are_said(folder: Path) -> None:
    assert "27 training rows: expect little" in advice_on(folder, labelled(30))


def test_rare_labels_and_a_great_majority_are_said(folder: Path) -> None:
    rows = [{**row, "intent": "usual"} for row in many()]
    rows[0]["intent"] = rows[1]["intent"] = "rare"
    found = advice_on(folder, rows, validation=write(folder / "dev.jsonl", rows[2:4]))
    assert "1 of 2 labels has fewer than 5 training rows: rare" in found
    assert "398 of 400 training rows have the label usual" in found


def test_a_label_that_never_occurs_is_said(folder: Path) -> None:
    rows = [{"question": row["question"], "intent": 1 + index % 3} for index, row in enumerate(many())]
    assert "no training row has the label 0" in advice_on(folder, rows)


def test_contradictions_and_rows_of_other_splits_are_said(folder: Path) -> None:
    rows = many()
    rows[3] = {"question": rows[0]["question"], "intent": rows[1]["intent"]}  # 0 and 3 have the same label
    rows[6] = dict(rows[9])
    test = write(folder / "test.jsonl", [rows[20], {"question": "new", "intent": "red"}])
    found = advice_on(folder, rows, test=test, validation=write(folder / "dev.jsonl", [{
        "question": "other", "intent": "red"}]))
    assert "1 training text with different labels" in found
    assert "1 of 2 test rows are in the training data too" in found and "validation rows" not in found


def test_other_tasks_are_looked_at_too(folder: Path) -> None:
    rows = [{**row, "ner_tags": [len(tag) - 1 for tag in row["ner_tags"]]} for row in tagged()]
    found = advice_on(folder, rows, "token-classification", tags="ner_tags")
    assert "the tags are numbers" in found
    named = advice_on(folder, rows, "token-classification", tags="ner_tags", label_names=["O", "B-X", "I-X"])
    assert "the tags are numbers" not in named
    again = asked()
    found = advice_on(folder, again, "question-answering", test=write(folder / "test.jsonl", again[:2]),
                      validation=write(folder / "dev.jsonl", [{**again[0], "question": "new"}]))
    assert "2 of 2 test rows" in found and "validation rows" not in found
