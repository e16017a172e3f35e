"""Promises of what `stillhouse.distill` gives back."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch

import stillhouse.export
from stillhouse import DistillationResult

from .conftest import Values

pytestmark = pytest.mark.runs


@pytest.fixture
def result(arguments: Values) -> DistillationResult:
    return stillhouse.distill(**arguments)


def test_the_student_is_loaded_when_asked_for_and_can_be_used(result: DistillationResult) -> None:
    assert not result.student.training and result.student is result.student
    batch = result.tokenizer(["a b c", "f g"], padding=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = result.student(**batch).logits.softmax(dim=-1)
    said = result.predict(["a b c", "f g"])
    names = result.student.config.id2label
    assert [one["label"] for one in said] == [names[int(number)] for number in probabilities.argmax(dim=-1)]
    assert [one["confidence"] for one in said] == pytest.approx(probabilities.max(dim=-1).values.tolist(), rel=1e-3)


def test_texts_and_rows_of_every_form_are_answered_alike(
    result: DistillationResult, rows: dict[str, list[Values]],
) -> None:
    items = rows["test"][:5]
    said = result.predict([row["text"] for row in items])
    assert len(said) == 5
    for form in (items, datasets.Dataset.from_list(items), pd.DataFrame(items)):
        assert [one["label"] for one in result.predict(form)] == [one["label"] for one in said]
    (alone,) = result.predict(items[0]["text"])
    assert (alone["text"], alone["label"]) == (items[0]["text"], said[0]["label"])


def test_the_report_lies_in_the_run_folder(result: DistillationResult) -> None:
    assert result.report() == result.output / "report.html"
    assert f"{100 * result.metrics['student']['accuracy']:.1f}" in (result.output / "report.html").read_text()


def test_what_is_exported_is_this_run(result: DistillationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, Values]] = []
    monkeypatch.setitem(vars(stillhouse.export), "export_onnx",
                        lambda run, **options: asked.append((run.path, options)))
    result.export(int8=True, output="exported")
    assert asked == [(result.output, {"int8": True, "output": "exported"})]


def test_a_terminal_and_a_notebook_show_the_same_numbers(result: DistillationResult) -> None:
    text, page = repr(result), result._repr_html_()
    for who in ("teacher", "student"):
        (line,) = [line for line in text.splitlines() if line.startswith(who)]
        cells = re.findall(r"<td>(.*?)</td>", page[page.index(f"<td>{who}</td>"):])
        assert line.split()[1] == cells[1] == f"{result.metrics[who]['accuracy']:.4f}"
        assert cells[2] in line and cells[3] in line
    assert str(result.output) in text and str(result.output) in page


def test_what_a_notebook_shows_is_escaped_and_may_lack_a_teacher(result: DistillationResult) -> None:
    metrics = copy.deepcopy(dict(result.metrics)) | {"teacher": None, "retention": None}
    page = DistillationResult(Path("runs/<script>"), metrics)._repr_html_()
    assert "<script>" not in page and "runs/&lt;script&gt;" in page and "teacher" not in page
