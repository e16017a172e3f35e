"""Promises of evaluations: a run's own numbers come out again, and labels mean what they mean to the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import BertForSequenceClassification

from stillhouse.errors import ConfigError, DataError
from stillhouse.finished import evaluate, open_run, predict
from stillhouse.tasks.pretrained import quiet_transformers

from .conftest import KINDS, ROWS, Finished

pytestmark = pytest.mark.runs

Get = Callable[[str], Finished]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_run_is_as_good_on_its_own_data_as_it_said(finished: Get, name: str) -> None:
    run = finished(name)
    found = evaluate(run.output, run.files["test"], batch_size=5)
    expected = run.metrics
    assert found["task"] == KINDS[name].task and found["rows"] == ROWS["test"]
    assert found["metric"] == expected["metric"]
    assert found["metrics"] == pytest.approx({key: expected["student"][key] for key in found["metrics"]}, rel=1e-5)
    assert found == evaluate(run.output, run.rows(), batch_size=5)


def test_labels_are_the_models_own_by_name_and_by_number(finished: Get, tmp_path: Path) -> None:
    """The order in which names occur in the data is not the model's."""
    run = finished("multi")
    rows = [{"text": line["inputs"]["text"], "label": line["student"]["labels"]} for line in run.lines]
    assert evaluate(run.output, rows)["metrics"]["subset_accuracy"] == 1
    single = finished("single")
    said = [(line["inputs"], line["student"]["label"]) for line in single.lines]
    by_name = [{"note": one["text"], "more": one["text_pair"], "colour": label} for one, label in said]
    by_number = [{**row, "colour": "xyz".index(row["colour"])} for row in by_name]
    assert evaluate(single.output, by_name)["metrics"]["accuracy"] == 1
    assert evaluate(single.output, by_number)["metrics"]["accuracy"] == 1
    features = datasets.Features({"note": datasets.Value("string"), "more": datasets.Value("string"),
                                  "colour": datasets.ClassLabel(names=["z", "y", "x"])})
    datasets.Dataset.from_list(by_name, features=features).to_parquet(tmp_path / "other_order.parquet")
    assert evaluate(single.output, tmp_path / "other_order.parquet")["metrics"]["accuracy"] == 1


def test_a_label_that_the_model_does_not_know_is_refused(finished: Get) -> None:
    rows = [{"note": "a", "more": "b", "colour": "x"}, {"note": "a", "more": "b", "colour": "X"}]
    with pytest.raises(DataError, match=r"row 2, column 'colour': unknown label 'X'\. Known: x, y, z; a model has an "
                                        "output for each of these and for no other"):
        evaluate(finished("single").output, rows)
    with pytest.raises(DataError, match="label 3 is outside 0 to 2"):
        evaluate(finished("single").output, [{"note": "a", "more": "b", "colour": 3}])


def test_a_model_without_a_run_is_judged_on_other_columns(finished: Get, tmp_path: Path) -> None:
    """Its labels have no names, so that the data's may be given."""
    student = BertForSequenceClassification.from_pretrained(finished("single").output / "student")
    student.config.id2label = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    with quiet_transformers():
        student.save_pretrained(tmp_path / "bare")
        open_run(finished("single").output).tokenizer().save_pretrained(tmp_path / "bare")
    rows = [{"a": line["inputs"]["text"], "b": line["inputs"]["text_pair"], "said": line["student"]["label"]}
            for line in finished("single").lines]
    columns = {"text": "a", "text_pair": "b", "label": "said"}
    with pytest.raises(DataError, match=r"unknown label .* Known: LABEL_0, LABEL_1, LABEL_2"):
        evaluate(open_run(tmp_path / "bare", settings=columns), rows)
    named = open_run(tmp_path / "bare", settings={**columns, "label_names": ["x", "y", "z"]})
    assert named.task.spec.max_length == 32  # what the model can read
    assert evaluate(named, rows)["metrics"]["accuracy"] == 1


def test_what_cannot_be_judged_is_said(finished: Get, tmp_path: Path) -> None:
    run = finished("single")
    with pytest.raises(DataError, match="there are none; give at least one"):
        evaluate(run.output, [])
    with pytest.raises(DataError, match=r"the given rows, row 2: 'c' is no object with columns"):
        evaluate(run.output, [{"note": "a", "more": "b", "colour": "x"}, "c"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="unknown column 'colour': did you mean 'color'"):
        evaluate(run.output, [{"note": "a", "more": "b", "color": "x"}])
    with pytest.raises(ConfigError, match="txt: unknown key; did you mean 'text'"):
        open_run(run.output, settings={"txt": "a"})
    with pytest.raises(ConfigError, match=r"does not say what its task is; give the task \(--task\)"):
        config = json.loads((run.output / "student" / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForPreTraining"]}))
        open_run(tmp_path)


def test_a_task_that_was_assumed_is_told_with_how_to_name_another(finished: Get) -> None:
    student = finished("single").output / "student"
    rows = [{"note": "a", "more": "b", "colour": "x"}]
    assumed = (r"unknown column 'text'\. Known: colour, more, note; that is what data\.text is unless you say "
               r"otherwise: name yours with text: \.\.\. .*--set text=\.\.\..*\nno task was given, and .*student "
               "was taken for a model of text-classification; if it is of another, name that with --task")
    for ask in (evaluate, predict):
        with pytest.raises(DataError, match=assumed):
            ask(open_run(student), rows)
        with pytest.raises(DataError, match="unknown column 'text'") as caught:
            ask(open_run(student, task="text-classification"), rows)
        assert "--task" not in str(caught.value)
    with pytest.raises(DataError, match=r"unknown label 'X'[^\n]*\nno task was given"):
        evaluate(open_run(student, settings={"text": "note", "label": "colour"}), [{"note": "a", "colour": "X"}])


def test_evaluating_moves_no_random_generator(finished: Get) -> None:
    run: Any = finished("single")
    before = torch.get_rng_state()
    evaluate(run.output, run.files["test"])
    assert torch.equal(torch.get_rng_state(), before)
