"""Promises of `stillhouse.distill`: it does what a recipe does, whatever form models and data have."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, BertTokenizer, PreTrainedModel

import stillhouse
from stillhouse import DistillationResult, StudentSpec
from stillhouse.cache_dirs import given_dir
from stillhouse.errors import ConfigError
from stillhouse.recipe import load_recipe, run
from stillhouse.training import Sink
from stillhouse.training.events import CheckpointSaved, Event

from .conftest import DISTILLATION, NAMES, SHORT, TASK, Values

pytestmark = pytest.mark.runs


def weights(result: Any) -> dict[str, torch.Tensor]:
    return load_file(Path(result.output) / "student" / "model.safetensors")


def quality(result: Any) -> Values:
    """What does not depend on a clock."""
    return {who: {name: value for name, value in result.metrics[who].items()
                  if name in ("accuracy", "macro_f1", "validation", "agreement_with_teacher", "parameters", "steps")}
            for who in ("teacher", "student")} | {"rows": result.metrics["rows"]}


def assert_same(one: Any, other: Any) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert quality(one) == quality(other)


def from_files(teacher: PreTrainedModel, tokenizer: BertTokenizer, rows: dict[str, list[Values]]) -> DistillationResult:
    """The same from files alone, as a recipe names them, in the words of a recipe."""
    teacher.save_pretrained("saved-teacher")
    tokenizer.save_pretrained("saved-teacher")
    for split, items in rows.items():
        with Path(f"{split}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "colour"])
            writer.writeheader()
            writer.writerows(items)
    recipe = {"task": TASK, "teacher": {"model": "saved-teacher"}, "student": {"keep": 1}, "output": "from-files",
              "data": {**{split: f"{split}.csv" for split in rows}, "label": "colour", "max_length": 16},
              "distillation": DISTILLATION, "training": SHORT}
    Path("recipe.yaml").write_text(json.dumps(recipe))  # which is YAML
    finished = run(load_recipe("recipe.yaml"))
    return DistillationResult(finished.output, finished.metrics)


def test_objects_give_what_the_recipe_with_the_same_files_gives(
    arguments: Values, teacher: BertForSequenceClassification, tokenizer: BertTokenizer, rows: dict[str, list[Values]],
) -> None:
    asked_by_name = from_files(teacher, tokenizer, rows)
    assert_same(stillhouse.distill(**arguments), asked_by_name)


def test_the_recipe_that_was_written_gives_the_same_again(arguments: Values) -> None:
    result = stillhouse.distill(**arguments)
    again = run(load_recipe(result.output / "recipe.yaml", ["output=again"]))
    assert_same(result, again)
    assert again.metrics["teacher_forwards"]["distillation"] == 0  # what was said of these rows is known
    assert result.recipe == (result.output / "recipe.yaml").read_text()


def as_classes(rows: list[Values]) -> datasets.Dataset:
    numbered = [{"text": row["text"], "colour": NAMES.index(row["colour"])} for row in rows]
    features = datasets.Features({"text": datasets.Value("string"), "colour": datasets.ClassLabel(names=NAMES)})
    return datasets.Dataset.from_list(numbered, features=features)


def as_categories(rows: list[Values]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, index=[f"row {number}" for number in range(len(rows))])
    return frame.astype({"colour": "category"}).assign(features=0.5, column_names="x")  # names that data sets have


@pytest.mark.parametrize("form", [datasets.Dataset.from_list, as_classes, as_categories])
def test_every_form_of_the_same_rows_gives_the_same_student(
    form: Callable[[list[Values]], Any], arguments: Values, rows: dict[str, list[Values]],
) -> None:
    as_lists = stillhouse.distill(**arguments)
    result = stillhouse.distill(**(arguments | {split: form(items) for split, items in rows.items()}))
    assert_same(result, as_lists)
    assert json.loads((result.output / "student" / "config.json").read_text())["id2label"] == {
        str(number): name for number, name in enumerate(NAMES)}


def test_the_splits_of_a_dataset_dict_are_found_by_name(arguments: Values, rows: dict[str, list[Values]]) -> None:
    splits = datasets.DatasetDict({"train": as_classes(rows["train"]), "dev": as_classes(rows["validation"]),
                                   "test": as_classes(rows["test"])})
    del arguments["validation"], arguments["test"]
    result = stillhouse.distill(**(arguments | {"train": splits}))
    assert result.metrics["rows"] == {split: len(items) for split, items in rows.items()}


def test_a_test_split_whose_labels_are_secret_is_left_out_and_said(
    arguments: Values, rows: dict[str, list[Values]],
) -> None:
    secret = as_classes(rows["test"]).map(lambda row: {"colour": -1})
    del arguments["validation"], arguments["test"]
    splits = datasets.DatasetDict({"train": as_classes(rows["train"]), "validation": as_classes(rows["validation"]),
                                   "test": secret})
    with pytest.warns(UserWarning, match="test split has no labels"):
        result = stillhouse.distill(**(arguments | {"train": splits}))
    assert "test" not in result.metrics["rows"] and result.metrics["split"] == "validation"


def test_the_format_in_which_a_data_set_is_read_changes_nothing(
    arguments: Values, rows: dict[str, list[Values]],
) -> None:
    plain = as_classes(rows["train"])
    formatted = as_classes(rows["train"]).with_format("torch")
    first = stillhouse.distill(**(arguments | {"train": plain}))
    second = stillhouse.distill(**(arguments | {"train": formatted}))
    assert_same(first, second)
    assert len(list((given_dir() / "data").glob("*.parquet"))) == 1


def test_the_same_content_is_written_once(arguments: Values, rows: dict[str, list[Values]]) -> None:
    stillhouse.distill(**arguments)
    before = written()
    second = stillhouse.distill(**(arguments | {"seed": 1, "train": [dict(row) for row in rows["train"]]}))
    assert written() == before
    assert second.metrics["teacher_forwards"]["distillation"] == 0
    stillhouse.distill(**(arguments | {"train": rows["train"][::-1]}))
    assert len(written()) == len(before) + 1


def written() -> dict[Path, int]:
    """The files of what was given, and which write made each."""
    return {path: path.stat().st_ino for path in given_dir().rglob("*") if path.is_file()}


def test_a_changed_weight_is_another_teacher(arguments: Values, teacher: BertForSequenceClassification) -> None:
    stillhouse.distill(**arguments)
    with torch.no_grad():
        teacher.classifier.bias[0] += 1
    result = stillhouse.distill(**arguments)
    assert result.metrics["teacher_forwards"]["distillation"] == result.metrics["rows"]["train"]
    assert len(list((given_dir() / "models").iterdir())) == 2


def test_an_interrupted_run_is_resumed_with_the_same_objects(arguments: Values) -> None:
    class Stop(Sink):
        def emit(self, event: Event) -> None:
            if isinstance(event, CheckpointSaved):
                raise KeyboardInterrupt

    longer = arguments | {"training": {**SHORT, "epochs": 2}}
    whole = stillhouse.distill(**longer, output="whole")
    with pytest.raises(KeyboardInterrupt):
        stillhouse.distill(**longer, output="stopped", sinks=[Stop()])
    assert_same(stillhouse.distill(**longer, output="stopped", resume=True), whole)
    with pytest.raises(ConfigError, match=r"give resume=True to see its results, overwrite=True to start afresh"):
        stillhouse.distill(**longer, output="whole")


def test_without_an_output_every_run_has_a_folder_of_its_own(arguments: Values) -> None:
    first, second = stillhouse.distill(**arguments), stillhouse.distill(**arguments)
    assert (str(first.output), str(second.output)) == (f"runs/{TASK}-1", f"runs/{TASK}-2")


def test_several_teachers_and_a_student_of_the_users_own(
    arguments: Values, teacher: BertForSequenceClassification,
) -> None:
    student = stillhouse.build_student(teacher, StudentSpec(keep=1), seed=0)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    other = BertForSequenceClassification(teacher.config)
    result = stillhouse.distill(**(arguments | {"teacher": [teacher, other], "student": student}))
    assert result.metrics["teacher"]["parameters"] == 2 * sum(p.numel() for p in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())  # the user's stays
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(result).items())


def test_a_teacher_can_be_fine_tuned_first_and_is_found_again(arguments: Values) -> None:
    section = {"model": arguments["teacher"], "train": {"epochs": 1, "precision": "fp32"}}
    trained = arguments | {"teacher": section, "student": StudentSpec(keep=1)}
    first, second = stillhouse.distill(**trained), stillhouse.distill(**trained)
    assert first.metrics["wall_time_s"]["teacher_training"] > 0 == second.metrics["wall_time_s"]["teacher_training"]
    assert_same(first, second)


def test_a_quiet_run_says_nothing(arguments: Values, capfd: pytest.CaptureFixture[str]) -> None:
    stillhouse.distill(**arguments)
    assert capfd.readouterr() == ("", "")
    stillhouse.distill(**(arguments | {"progress": True}))
    assert "student" in capfd.readouterr().err


def test_texts_alone_are_enough_where_a_task_needs_no_more(
    arguments: Values, teacher: BertForSequenceClassification, rows: dict[str, list[Values]],
) -> None:
    pairs = [{"sentence1": one["text"], "sentence2": two["text"], "score": float(number)}
             for number, (one, two) in enumerate(zip(rows["test"], rows["validation"], strict=False))]
    result = stillhouse.distill(
        task="sentence-embedding", teacher=teacher.bert, tokenizer=arguments["tokenizer"], student={"keep": 1},
        train=[row["text"] for row in rows["train"]], validation=pairs, max_length=16, training=SHORT, progress=False)
    assert result.metrics["rows"]["train"] == len({row["text"] for row in rows["train"]})
