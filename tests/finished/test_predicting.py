"""Promises of predictions: what the run's own file holds, what ``predict`` says of the same rows, and what metrics say.

Each task's metric is worked out again from the words alone, so that words, gold and metrics cannot drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from seqeval.metrics import f1_score as entity_f1
from transformers import pipeline

from stillhouse import DistillationResult
from stillhouse.errors import ConfigError, DataError, PlanError
from stillhouse.finished import evaluate, open_run, predict
from stillhouse.finished.given_rows import STRETCH, lines, stretches
from stillhouse.metrics import squad_metrics
from stillhouse.tasks.pretrained import quiet_transformers
from stillhouse.testing.looking import require_alike

from .conftest import KINDS, ROWS, Finished

pytestmark = pytest.mark.runs

Get = Callable[[str], Finished]
SAYING = sorted(KINDS.keys() - {"masks"})


def metric_of(name: str, said: list[Any], gold: list[Any]) -> float:
    """The metric by which a task chooses models, from words alone."""
    if name in ("single", "choices"):
        key = {"single": "label", "choices": "choice"}[name]
        return float(np.mean([one[key] == label for one, label in zip(said, gold, strict=True)]))
    if name == "multi":
        pairs = [(set(one["labels"]), set(label)) for one, label in zip(said, gold, strict=True)]
        return 2 * sum(len(a & b) for a, b in pairs) / sum(len(a) + len(b) for a, b in pairs)
    if name == "tags":
        return float(entity_f1(gold, [one["tags"] for one in said]))
    if name == "questions":
        return squad_metrics([one["answer"] for one in said], gold)["f1"]
    return float(spearmanr([one["score"] for one in said], gold).statistic)


@pytest.mark.parametrize("name", SAYING)
def test_a_run_keeps_what_teacher_and_student_said_of_each_row(finished: Get, name: str) -> None:
    run = finished(name)
    found = run.lines
    assert [line["row"] for line in found] == list(range(ROWS["test"]))
    assert all(set(line) == {"row", "inputs", "label", "teacher", "student"} for line in found)
    gold, metric = [line["label"] for line in found], run.metrics["metric"]
    for who in ("teacher", "student"):
        said = [line[who] for line in found]
        assert metric_of(name, said, gold) == pytest.approx(run.metrics[who][metric], abs=1e-6)
    assert any(line["teacher"] != line["student"] for line in found)


@pytest.mark.parametrize("name", SAYING)
def test_the_words_are_those_of_the_data(finished: Get, name: str) -> None:
    run = finished(name)
    rows, found = run.rows(), run.lines
    inputs = {"single": lambda row: {"text": row["note"], "text_pair": row["more"]},
              "tags": lambda row: {"words": row["tokens"]},
              "questions": lambda row: {"question": row["question"], "context": row["context"]},
              "choices": lambda row: {"question": row["question"], "choices": row["choices"]},
              "sentences": lambda row: {"text": row["sentence1"], "text_pair": row["sentence2"]}}
    gold = {"single": lambda row: row["colour"], "multi": lambda row: sorted(row["label"]),
            "tags": lambda row: row["tags"], "questions": lambda row: row["answers"]["text"],
            "choices": lambda row: "ABC".index(row["label"]), "sentences": lambda row: row["score"]}
    assert [line["inputs"] for line in found] == [
        inputs.get(name, lambda row: {"text": row["text"]})(row) for row in rows]
    assert [line["label"] for line in found] == [gold.get(name, lambda row: row["label"])(row) for row in rows]


@pytest.mark.parametrize("name", sorted(SAYING, key=lambda name: name == "sentences"))
def test_predict_says_what_the_run_said(finished: Get, name: str) -> None:
    run = finished(name)
    if name == "sentences":  # a run judges pairs; what is asked for later is the vectors
        rows = run.rows()
        vectors = [np.array([one["embedding"] for one in predict(run.output, [row[side] for row in rows])])
                   for side in ("sentence1", "sentence2")]
        cosines = (vectors[0] * vectors[1]).sum(axis=1) / np.prod([np.linalg.norm(v, axis=1) for v in vectors], axis=0)
        assert cosines == pytest.approx([line["student"]["score"] for line in run.lines], abs=1e-5)
        return
    expected = [{**line["inputs"], **line["student"]} for line in run.lines]
    unlabelled = [{key: value for key, value in row.items() if key not in ("label", "colour", "tags", "answers")}
                  for row in run.rows()]
    for rows in (run.files["test"], unlabelled):
        found = predict(run.output, rows, batch_size=3)
        assert [set(one) for one in found] == [set(one) for one in expected]
        for ours, theirs in zip(found, expected, strict=True):
            require_alike(ours, theirs, 1e-6)


def test_probabilities_are_those_of_transformers(finished: Get) -> None:
    run = finished("multi")
    with quiet_transformers():
        ask = pipeline("text-classification", model=str(run.output / "student"), top_k=None)
    said = predict(run.output, run.files["test"])
    for one in said:
        expected = {each["label"]: each["score"] for each in ask([one["text"]])[0]}
        assert one["probabilities"] == pytest.approx(expected, rel=1e-3)
        assert one["labels"] == [name for name in "xyz" if expected[name] > 0.5]


def test_words_that_are_not_seen_have_no_confidence(finished: Get) -> None:
    run = open_run(finished("tags").output, settings={"max_length": 12})
    with pytest.warns(UserWarning, match="cuts off 10 of 20 words"):
        said = predict(run, [{"tokens": list("abcdefghij" * 2)}])[0]
    assert len(said["tags"]) == len(said["confidence"]) == 20
    assert [value > 1 / 3 for value in said["confidence"]] == [True] * 10 + [False] * 10  # 12 tokens, two special
    assert said["tags"][10:] == ["O"] * 10 and said["confidence"][10:] == [0.0] * 10


def test_masks_have_no_predictions_and_say_who_has(finished: Get) -> None:
    run = finished("masks")
    assert not (run.output / "predictions.jsonl").exists()
    with pytest.raises(PlanError, match=r'masked-lm: .*pipeline\("fill-mask"'):
        predict(run.output, run.files["test"])


def test_texts_alone_are_rows_where_a_row_is_a_text(finished: Get, tmp_path: Any) -> None:
    run = finished("multi")
    texts = ["a b", "c d e"]
    (tmp_path / "plain.txt").write_text("a b\n\nc d e\n")
    expected = predict(run.output, [{"text": text} for text in texts])
    (tmp_path / "LOUD.TXT").write_text("a b\n\nc d e\n")
    assert predict(run.output, texts) == predict(run.output, tmp_path / "plain.txt") == expected
    renamed = open_run(run.output, settings={"text": "sentence"})
    for name in ("plain.txt", "LOUD.TXT"):
        (said,) = [list(rows.column("sentence")) for rows in stretches(renamed.task, tmp_path / name)]
        assert said == texts
    with pytest.raises(DataError, match=r"the given rows, row 1: 'a b' is no object .*a row is more than a text"):
        predict(finished("single").output, texts)


@pytest.mark.parametrize("given", [{"text": "a b"}, {"text": ["a b", "c d e"]}])
def test_a_mapping_is_not_taken_for_the_names_of_its_columns(finished: Get, given: Any) -> None:
    with pytest.raises(DataError, match=r"the given rows: this is a mapping \('text'\).*give a list of rows"):
        predict(finished("multi").output, given)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_rows_is_refused(finished: Get, batch_size: int) -> None:
    with pytest.raises(ConfigError, match=f"a batch size of {batch_size}"):
        predict(finished("multi").output, ["a b"], batch_size=batch_size)


def test_a_bare_model_says_the_same_as_its_run(finished: Get) -> None:
    run = finished("multi")
    found = open_run(run.output / "student")
    assert found.task.name == "text-classification" and found.task.label_names == ("x", "y", "z")
    assert found.recipe is None and not found.metrics
    assert predict(found, run.files["test"]) == predict(run.output, run.files["test"])


def test_a_stream_is_read_a_stretch_at_a_time(finished: Get) -> None:
    """Of a stream without an end, no more is read than is asked for."""
    task = open_run(finished("multi").output).task
    read = 0

    def stream() -> Any:
        nonlocal read
        while True:
            read += 1
            yield b'{"text": "a b"}\n' if read % 3 else b"\n"

    parts = lines(task, stream())
    assert len(next(parts)) == STRETCH and read < 2 * STRETCH
    second = next(parts)
    assert len(second) == STRETCH and second.where(0) == f"standard input, row {1 + STRETCH + STRETCH // 2}"


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("multi", [b'{"text": "a"}', b"", b'{"text": '], r"standard input, line 3: not readable as JSON .*: \{\"text\":"),
    ("multi", [b'{"text": "a"}', b"[1]"], r"standard input, row 2: \[1\] is no object with columns"),
    ("multi", [b'{"txt": "a"}'], r"unknown column 'text': did you mean 'txt'"),
    ("multi", [b'{"text": "a"}', b'{"other": "b"}'], r"standard input, row 2, column 'text': there is no text"),
    ("multi", [b"plain", b"\xff\xfe"], r"standard input, line 2: not UTF-8 text"),
    ("tags", [b"plain"], r"standard input, row 1: 'plain' is no object .*a row is more than a text"),
])
def test_lines_that_are_wrong_are_named(finished: Get, name: str, content: list[bytes], problem: str) -> None:
    task = open_run(finished(name).output).task
    with pytest.raises(DataError, match=problem):
        for rows in lines(task, content):
            task.unlabelled(rows)


def test_plain_lines_go_into_the_tasks_own_column(finished: Get) -> None:
    task = open_run(finished("multi").output, settings={"text": "sentence"}).task
    assert [list(rows.column("sentence")) for rows in lines(task, [b"\xef\xbb\xbfa b\r\n", b" \n", b"{c}\n"])] == [
        ["a b", "{c}"]]


@pytest.mark.parametrize("given", [3, None])
def test_what_is_no_list_of_rows_is_refused(finished: Get, given: Any) -> None:
    run = finished("multi").output
    for ask in (predict, evaluate):
        with pytest.raises(DataError, match=f"the given rows: {given} is of type .*; give a list of rows"):
            ask(run, given)
    with pytest.raises(DataError, match="the given rows: 3 is of type int"):
        DistillationResult(run, {}).predict(3)


def test_predicting_moves_no_random_generator(finished: Get) -> None:
    run = finished("multi")
    before = torch.get_rng_state()
    predict(run.output, ["a"])
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_run_is_said(finished: Get, tmp_path: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds neither recipe\.yaml, as a run does, nor config\.json"):
        open_run(tmp_path / "empty")
    with pytest.raises(ConfigError, match="there is no folder"):
        open_run(tmp_path / "nowhere")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").write_text((finished("multi").output / "recipe.yaml").read_text())
    with pytest.raises(ConfigError, match=r"a run without a student yet .*--resume"):
        open_run(unfinished)
    (tmp_path / "seeds" / "seed-3").mkdir(parents=True)
    (tmp_path / "seeds" / "seed-3" / "recipe.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"several seeds; give one of them, such as .*seed-3"):
        open_run(tmp_path / "seeds")
    with pytest.raises(ConfigError, match="unknown task 'text-clasification': did you mean 'text-classification'"):
        open_run(finished("multi").output, task="text-clasification")
    with pytest.raises(ConfigError, match="is a run of text-classification, not of masked-lm"):
        open_run(finished("multi").output, task="masked-lm")
    with pytest.raises(ConfigError, match=r"no trained head for multiple-choice; .*or the task text-classification"):
        open_run(finished("multi").output / "student", task="multiple-choice")


def test_a_run_with_stages_stands_for_its_last_also_where_it_was_moved(finished: Get, tmp_path: Any) -> None:
    run = finished("multi")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "second").symlink_to(run.output)
    (tmp_path / "top" / "recipe.yaml").write_text(json.dumps(
        {"output": "gone", "stages": [{"output": "gone/first"}, {"output": "gone/second"}]}))
    found = open_run(tmp_path / "top")
    assert found.path == tmp_path / "top" / "second" and found.metrics == run.metrics
    assert found.recipe is not None and found.recipe.task == "text-classification"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_label_names_and_speeds_are_among_the_results(finished: Get, name: str) -> None:
    metrics = finished(name).metrics
    assert metrics["label_names"] == list(KINDS[name].data.get("label_names", []))
    for who in ("teacher", "student"):
        found = metrics[who]["latency_by_batch"]
        assert set(found) == {"1", "8", "32"}
        for size, speed in found.items():
            assert speed["ms"] > 0 and speed["rows_per_s"] == pytest.approx(1000 * int(size) / speed["ms"], rel=0.01)
        assert found["1"]["ms"] == metrics[who]["latency_ms"]
        assert found["32"]["rows_per_s"] == metrics[who]["throughput_rows_per_s"]
