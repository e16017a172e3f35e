"""Promises of ``predictions.jsonl`` where not everybody has said something."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
import torch

from stillhouse.errors import PlanError
from stillhouse.recipe.predictions import prediction_lines
from stillhouse.recipe.run_folder import RunFolder
from stillhouse.recipe.schema import Recipe
from stillhouse.tasks import Task, TextClassification, TextClassificationData
from stillhouse.types import LOGITS

from .conftest import MakeRecipe, save_encoder


def judged(task: Task[Any], tokenizer: Any) -> Any:
    encoded = task.encode("test", tokenizer)
    logits = torch.tensor([[0.0, 1.0, -2.0]] * len(encoded))
    return task.judged(encoded, iter([(list(range(len(encoded))), {LOGITS: logits})]))


@pytest.fixture
def task(data: dict[str, str]) -> Task[Any]:
    found: Task[Any] = TextClassification(TextClassificationData.of(**data, label="colour", max_length=16))
    found.load()
    return found


def test_a_teacher_that_was_not_asked_is_null(task: Task[Any], encoder: str) -> None:
    judgement = judged(task, task.load_tokenizer(encoder))
    lines = [json.loads(line) for line in prediction_lines(task, "test", judgement, None)]
    assert len(lines) == 30 and all(line["teacher"] is None for line in lines)
    names = list(task.label_names)
    assert {line["student"]["label"] for line in lines} == {names[1]}
    shares = dict(zip(names, [0.2595, 0.7054, 0.03512], strict=True))  # softmax, four digits
    assert lines[0]["student"]["probabilities"] == shares and list(lines[0]["student"]["probabilities"]) == [
        names[1], names[0], names[2]]
    both = [json.loads(line) for line in prediction_lines(task, "test", judgement, judgement)]
    assert all(line["teacher"] == line["student"] for line in both)


def test_words_are_worked_out_when_they_are_asked_for_and_once(task: Task[Any], encoder: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation during training has no use for them, and a prediction none for metrics."""
    from stillhouse.tasks import label_kinds

    def refuse(*_: Any) -> Any:
        raise AssertionError("nobody has asked")

    tokenizer = task.load_tokenizer(encoder)
    with monkeypatch.context() as patch:
        patch.setattr(label_kinds, "share", refuse)
        assert judged(task, tokenizer).metrics["accuracy"] >= 0
    with monkeypatch.context() as patch:
        patch.setattr(label_kinds, "classification_metrics", refuse)
        judgement = judged(task, tokenizer)
        assert judgement.said is judgement.said


def test_a_task_without_words_has_no_lines(tmp_path: Any) -> None:
    unsaid = cast(Any, type("Silent", (), {"unsaid": "it says nothing", "name": "silent"}))
    assert list(prediction_lines(unsaid, "test", cast(Any, None), None)) == []


def test_predictions_are_written_as_a_whole_or_not_at_all(make_recipe: MakeRecipe) -> None:
    folder = RunFolder(Recipe.from_dict(make_recipe()), resume=False, overwrite=False)
    folder.path.mkdir(parents=True)

    def broken() -> Any:
        yield "{}"
        raise PlanError("in the middle")

    folder.save_predictions(["1", "2"])
    with pytest.raises(PlanError):
        folder.save_predictions(broken())
    assert folder.predictions_path.read_text() == "1\n2\n"


def test_nothing_is_lost_of_a_text(tmp_path: Any, encoder: str) -> None:
    """Lines are cut at line feeds alone, whatever else ends a line in a text."""
    texts = ["a\u2028b", "é \"c\"\n d", "a\tb"]
    rows = [{"text": text, "colour": "red" if number else "blue"} for number, text in enumerate(texts)]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "odd.jsonl"))
    task = TextClassification(TextClassificationData.of(**files, label="colour", label_names=["red", "blue", "green"]))
    task.load()
    words = save_encoder(tmp_path / "words")
    lines = list(prediction_lines(task, "test", judged(task, task.load_tokenizer(words)), None))
    assert all("\n" not in line for line in lines)
    assert [json.loads(line)["inputs"]["text"] for line in lines] == texts
