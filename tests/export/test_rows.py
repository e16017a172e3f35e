"""On which rows answers are compared where the data is there, partly there, or gone."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from stillhouse.export.rows import ComparedRows, rows_to_compare
from stillhouse.finished import open_run
from tests.export.tiny_runs import KINDS, LONGEST, Run, make_run


def rows_of(run: Run, limit: int | None = None) -> ComparedRows:
    opened = open_run(run.path)
    return rows_to_compare(opened, opened.load_student(), limit)


def write_predictions(run: Run) -> list[str]:
    """Of texts that hold characters which end a line elsewhere than in JSON, and which a run writes as they are."""
    texts = ["w1 w2 w3", "w4", "w5\u2028 w6", "w7\x85 w8"]
    lines = [{"row": number, "inputs": {"text": text}, "label": "x", "teacher": None, "student": {}}
             for number, text in enumerate(texts)]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (run.path / "predictions.jsonl").write_text(content, "utf-8")
    return texts


def test_the_test_data_comes_first_and_a_limit_is_told(fresh_run: Run) -> None:
    assert (rows_of(fresh_run).source, len(rows_of(fresh_run).encoded)) == ("the test data", 40)
    found = rows_of(fresh_run, 5)
    assert (found.source, len(found), len(found.encoded), found.has_data) == ("the test data", 5, 5, True)


def test_a_pair_of_sentences_is_one_row(run_of: Callable[[str], Run]) -> None:
    found = rows_of(run_of("sentences"))
    assert (len(found), len(found.encoded)) == (40, 80)


def test_without_data_the_kept_texts_are_compared(fresh_run: Run) -> None:
    texts = write_predictions(fresh_run)
    fresh_run.files["test"].unlink()
    found = rows_of(fresh_run)
    assert found.source == "the texts in predictions.jsonl"
    assert not found.has_data
    assert "test.jsonl" in found.note
    assert found.encoded.lengths.tolist() == [len(text.split()) + 2 for text in texts]
    assert len(rows_of(fresh_run, 3)) == 3


def test_data_with_other_labels_is_not_that_of_the_run(fresh_run: Run) -> None:
    recipe = fresh_run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text("utf-8").replace("- z\n", "- z\n  - other\n"), "utf-8")
    assert "other" in recipe.read_text("utf-8")
    assert "it has the labels x, y, z, other now" in rows_of(fresh_run).note


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_texts_tokens_are_made_up(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = make_run(KINDS[kind], tmp_path_factory.mktemp(kind))
    run.files["train"].unlink()
    found = rows_of(run)
    assert found.source == "made-up tokens"
    assert found.examples is None
    assert len(set(found.encoded.lengths)) > 10
    assert found.encoded.lengths.max() <= LONGEST
    ids = found.encoded.batch(range(len(found.encoded)))["input_ids"]
    assert ids.dim() == (3 if kind == "choices" else 2)
    assert ids.max() < 400


def test_a_model_without_a_run_has_no_data(fresh_run: Run) -> None:
    opened = open_run(fresh_run.student)
    found = rows_to_compare(opened, opened.load_student(), None)
    assert found.source == "made-up tokens"
    assert found.note == "a model's folder does not say what data it was made for"
