"""Promises of the model card: the hub can read it, its numbers are the run's, and its code runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
)

from stillhouse.errors import ConfigError
from stillhouse.report import model_card
from stillhouse.tasks.pretrained import quiet_transformers
from tests.report.made_runs import TAGS, make_run

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", ".", "?", "the", "mill", "is", "cold"]
MODELS: dict[str, Any] = {
    "text-classification": BertForSequenceClassification, "token-classification": BertForTokenClassification,
    "question-answering": BertForQuestionAnswering, "multiple-choice": BertForMultipleChoice,
    "sentence-embedding": BertModel, "masked-lm": BertForMaskedLM,
}


def front_matter(card: str) -> dict[str, Any]:
    _, matter, _ = card.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(matter)
    return found


def change(run: Path, **sections: Any) -> Path:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **sections}))
    return run


def save_student(folder: Path, task: str, labels: str = "single") -> None:
    torch.manual_seed(0)
    names = TAGS if task == "token-classification" else ["score"] if labels == "regression" else ["red", "green"]
    config = BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=64, id2label=dict(enumerate(names)),
                        label2id={name: number for number, name in enumerate(names)})
    with quiet_transformers():
        MODELS[task](config).save_pretrained(folder)
        BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)


def code_of(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(("task", "labels", "data"), [
    ("text-classification", "single", {}),
    ("text-classification", "single", {"text_pair": "second"}),
    ("text-classification", "multi", {}),
    ("text-classification", "regression", {}),
    ("token-classification", "single", {}),
    ("question-answering", "single", {}),
    ("multiple-choice", "single", {}),
    ("sentence-embedding", "single", {"pooling": "mean"}),
    ("sentence-embedding", "single", {"pooling": "cls", "normalize": False}),
    ("sentence-embedding", "single", {"pooling": "max"}),
    ("masked-lm", "single", {}),
])
def test_the_code_of_a_card_runs_in_the_students_folder(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str, labels: str,
        data: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", task, labels=labels)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    change(run, data={**recipe["data"], **data})
    save_student(run / "student", task, labels)
    code = code_of(model_card(run))
    monkeypatch.chdir(run / "student")
    with quiet_transformers():
        exec(code, {"__name__": "card"})
    assert capsys.readouterr().out.strip()


def test_the_code_for_a_student_that_is_no_transformer_makes_its_class_known(tmp_path: Path) -> None:
    from stillhouse.students.recurrent import RecurrentConfig, RecurrentForSequenceClassification

    run = make_run(tmp_path / "run")
    config = RecurrentConfig(vocab_size=len(WORDS), embedding_size=8, hidden_size=8, num_hidden_layers=1,
                             id2label={0: "red", 1: "green"}, label2id={"red": 0, "green": 1})
    with quiet_transformers():
        RecurrentForSequenceClassification(config).save_pretrained(run / "student")
        BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(run / "student")
    code = code_of(model_card(run))
    assert "import stillhouse.students" in code
    package = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=run / "student", capture_output=True, text=True,
                          env={"PYTHONPATH": str(package), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1",
                               "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr


def test_scores_for_the_hub_are_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "models" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    matter = front_matter(model_card(run))
    student = json.loads((run / "metrics.json").read_text())["student"]
    (result,) = matter["model-index"][0]["results"]
    assert {one["type"]: one["value"] for one in result["metrics"]} == {"accuracy": round(student["accuracy"], 4)}
    assert (matter["library_name"], matter["pipeline_tag"]) == ("transformers", "text-classification")
    assert result["dataset"] == {"name": "test.jsonl", "type": "custom", "split": "test"}
    assert "base_model" not in matter  # the teacher is a folder here


def test_models_and_data_of_the_hub_are_named_and_folders_are_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    change(run, output="runs/x", teacher={"model": "google-bert/bert-base-cased"},
           data={"train": "nyu-mll/glue:sst2@train", "test": "runs/data.jsonl"})
    matter = front_matter(model_card(run))
    assert matter["base_model"] == "google-bert/bert-base-cased"
    assert matter["datasets"] == ["nyu-mll/glue"]
    (judged,) = matter["model-index"][0]["results"]
    assert judged["dataset"] == {"name": "data.jsonl", "type": "custom", "split": "test"}, "not judged on GLUE"
    change(run, data={"train": "runs/Data.JSONL", "test": "nyu-mll/glue:sst2@test"})
    matter = front_matter(model_card(run))
    assert matter["model-index"][0]["results"][0]["dataset"]["type"] == "nyu-mll/glue"
    assert matter["datasets"] == ["nyu-mll/glue"]
    for model in ("runs/teacher", "./teacher", "/srv/teacher", "teacher", "package:some_package/model"):
        assert "base_model" not in front_matter(model_card(change(run, teacher={"model": model})))


def test_a_card_says_nothing_of_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    change(run, teacher={"model": f"{tmp_path}/teacher"})
    assert str(tmp_path) not in model_card(run)


@pytest.mark.parametrize(("home", "teacher"), [("/root", "/mnt/backup/root/teacher"), ("/", "https://x/teacher"),
                                               ("/root", "/rooted/teacher")])
def test_what_only_looks_like_the_users_home_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str,
                                                   teacher: str) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.setenv("HOME", home)
    change(run, teacher={"model": teacher})
    assert f"model: {teacher}\n" in model_card(run)


@pytest.mark.parametrize("parts", [{"with_teacher": False}, {"with_answers": False}, {"with_label": False}])
def test_a_card_tells_only_what_is_known(tmp_path: Path, parts: dict[str, bool]) -> None:
    card = model_card(make_run(tmp_path / "run", **parts))  # type: ignore[arg-type]
    assert ("calibration error" in card) is ("with_teacher" in parts)
    assert ("| teacher |" in card) is ("with_teacher" not in parts)


def test_a_card_has_the_recipe_and_its_citations(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    card = model_card(run)
    assert (run / "recipe.yaml").read_text().strip() in card
    assert "@misc{hinton2015distilling," in card and "@inproceedings{yang2020textbrewer," in card


def test_what_is_no_run_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"):
        model_card(tmp_path)
