"""Saved models as tables: folders, folders without weights, run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedModel

from stillhouse.errors import ConfigError
from stillhouse.inspection import inspect_models
from stillhouse.size_table import parameter_table
from stillhouse.tasks.pretrained import quiet_transformers


def config(layers: int, **changes: Any) -> BertConfig:
    return BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
                      intermediate_size=32, max_position_embeddings=24, **changes)


def saved(model: PreTrainedModel, folder: Path) -> str:
    with quiet_transformers():
        model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    return saved(BertForMaskedLM(config(3)), tmp_path / "teacher")


@pytest.fixture
def run_folder(tmp_path: Path, teacher: str) -> Path:
    saved(BertForSequenceClassification(config(1, num_labels=7)), tmp_path / "run" / "student")
    recipe = {"task": "text-classification", "teacher": {"model": teacher, "train": {"epochs": 1}},
              "student": {"layers": [0]}, "data": {"train": "rows.csv"}, "output": str(tmp_path / "run")}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "run"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_is_inspected_in_its_own_class_and_type(tmp_path: Path, dtype: torch.dtype) -> None:
    model = BertForMaskedLM(config(2)).to(dtype)
    assert inspect_models(saved(model, tmp_path)) == parameter_table(model)


def test_depth_and_length_are_passed_on(teacher: str) -> None:
    wanted = parameter_table(BertForMaskedLM(config(3)), depth=1, sequence_length=4)
    assert inspect_models(teacher, depth=1, sequence_length=4) == wanted


def test_a_folder_without_weights_is_inspected_from_its_configuration(tmp_path: Path) -> None:
    model = BertForMaskedLM(config(2, dtype="bfloat16"))
    model.config.architectures = ["BertForMaskedLM"]
    model.config.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="holds no weights: inspected from its configuration alone, in bfloat16"):
        table = inspect_models(str(tmp_path))
    assert table == parameter_table(model.to(torch.bfloat16))


def test_a_configuration_that_names_no_class_is_an_encoder(tmp_path: Path) -> None:
    config(2).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="in float32"):
        assert inspect_models(str(tmp_path)).model == "BertModel"


def test_a_run_is_its_student_beside_the_teacher_it_had(run_folder: Path) -> None:
    table = inspect_models(str(run_folder))
    wanted = parameter_table(BertForSequenceClassification(config(3, num_labels=7)),
                             beside=BertForSequenceClassification(config(1, num_labels=7)))
    assert table == wanted  # the teacher with a classifier, not with the head it was pre-trained with


def test_a_run_without_its_teacher_is_its_student_alone(run_folder: Path, teacher: str) -> None:
    Path(teacher).rename(f"{teacher}-moved")
    with pytest.warns(UserWarning, match=r"the student is shown alone.*there is no folder"):
        table = inspect_models(str(run_folder))
    assert table.beside is None and table.totals.num_parameters > 0


def test_a_run_made_with_plugins_needs_none_of_them(run_folder: Path) -> None:
    recipe = run_folder / "recipe.yaml"
    recipe.write_text(f"plugins: [gone.py]\n{recipe.read_text()}")
    assert inspect_models(str(run_folder)).beside is not None


def test_a_run_without_a_named_teacher_is_its_student_alone(run_folder: Path) -> None:
    (run_folder / "recipe.yaml").write_text("teacher: {run: earlier}")
    with pytest.warns(UserWarning, match="names no model as teacher"):
        assert inspect_models(str(run_folder)).beside is None


def test_a_run_may_stand_beside_another_model(run_folder: Path, teacher: str) -> None:
    table = inspect_models(teacher, str(run_folder))
    assert table.model == "BertForMaskedLM"
    assert table.beside is not None and table.beside.model == "BertForSequenceClassification"
    assert inspect_models(str(run_folder), teacher).model == "BertForSequenceClassification"


@pytest.mark.parametrize(("make", "message"), [
    (lambda folder: None, r"there is no folder"),
    (lambda folder: folder.mkdir(), r"holds no config\.json, so it is no model"),
    (lambda folder: folder.write_text("x"), r"is a file, so it is no model"),
    (lambda folder: (folder.mkdir(), (folder / "config.json").write_text("{}")), r"is no model's configuration"),
    (lambda folder: (folder.mkdir(), (folder / "recipe.yaml").write_text("{}")), r"a run that has no student yet"),
    (lambda folder: (config(1, architectures=["BertModel"]).save_pretrained(folder),
                     (folder / "model.safetensors").write_text("damaged")), r"cannot be loaded"),
], ids=["absent", "empty", "file", "no configuration", "unfinished", "damaged"])  # fmt: skip
def test_what_is_no_model_is_named(tmp_path: Path, make: Any, message: str) -> None:
    folder = tmp_path / "model"
    make(folder)
    with pytest.raises(ConfigError, match=message):
        inspect_models(str(folder))
