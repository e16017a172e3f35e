"""Promises of reading run folders: what is found, what is refused, and which runs are taken together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from stillhouse.errors import ConfigError, DataError
from stillhouse.report.groups import contests, differences, grouped
from stillhouse.report.run_files import find_runs, read_run
from tests.report.made_runs import NUM_ROWS, make_run


def change_recipe(run: Path, **sections: object) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **sections}))


def test_a_folder_that_is_not_there_a_folder_without_a_run_and_a_run_under_way_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.json").unlink()
    (tmp_path / "other").mkdir()
    for path, message in ((tmp_path / "none", "there is no folder"), (tmp_path / "other", "is no run folder"),
                          (run, "not finished.*--resume"), (tmp_path, "run is not finished.*--resume")):
        with pytest.raises(ConfigError, match=message):
            find_runs(path)


def test_damage_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "predictions.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=f"predictions.jsonl, line {NUM_ROWS + 1} is not JSON"):
        _ = read_run(run).predictions
    (run / "predictions.jsonl").write_text(json.dumps({"row": 0}) + "\n")
    with pytest.raises(DataError, match="line 1 has no answer of the student"):
        _ = read_run(run).predictions
    for nothing in ("{}", "null", "[]"):
        (run / "metrics.json").write_text(nothing)
        with pytest.raises(DataError, match="no task, metric"):
            read_run(run)


def test_a_text_with_line_separators_of_unicode_stays_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    rows = [{"row": 0, "inputs": {"text": "a\u2028b\x85c"}, "label": "x", "teacher": None,
             "student": {"label": "x", "confidence": 1.0}}]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert read_run(run).predictions == rows


def test_runs_below_a_folder_are_found_in_the_order_people_count_in(tmp_path: Path) -> None:
    for seed in (10, 2, 0):
        make_run(tmp_path / "T3" / f"seed-{seed}", seed=seed)
    assert [run.name for run in find_runs(tmp_path / "T3")] == ["T3/seed-0", "T3/seed-2", "T3/seed-10"]


def test_a_folder_named_by_a_digit_that_is_no_number_is_looked_into(tmp_path: Path) -> None:
    for name in ("²", "10", "2"):
        make_run(tmp_path / name)
    assert [run.name for run in find_runs(tmp_path)] == ["2", "10", "²"]


def test_stages_are_found_below_their_recipe_and_unfinished_runs_are_left_out(tmp_path: Path) -> None:
    for stage in ("first", "second", "third"):
        make_run(tmp_path / stage)
    (tmp_path / "third" / "metrics.json").unlink()
    stages = [{"name": name, "output": str(tmp_path / name)} for name in ("first", "second", "third")]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"output": str(tmp_path), "stages": stages}))
    (tmp_path / "metrics.json").write_text('{"stages": {}}')
    assert [run.name for run in find_runs(tmp_path)] == ["first", "second"]


def test_stages_are_found_where_their_own_outputs_are(tmp_path: Path) -> None:
    stages = [{"name": name, "output": str(tmp_path / "elsewhere" / name)} for name in ("z", "a")]
    for stage in stages:
        make_run(Path(stage["output"]))
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "recipe.yaml").write_text(yaml.safe_dump({"output": str(whole), "stages": stages}))
    assert [run.name for run in find_runs(whole)] == ["z", "a"], "in the order of the recipe"


def test_a_run_is_not_looked_for_inside_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    make_run(run / "inner")
    assert [found.path for found in find_runs(run)] == [run]


def test_seeds_of_one_recipe_are_one_group_named_after_the_folder_above(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / "T3" / f"seed-{seed}", seed=seed)) for seed in (0, 1)]
    runs += [read_run(make_run(tmp_path / "tiny", shape="T4-tiny"))]
    groups = grouped(runs)
    assert [(group.name, len(group.runs)) for group in groups] == [("T3", 2), ("tiny", 1)]
    assert differences(groups) == {"student.shape": ["T3", "T4-tiny"]}


def test_a_run_that_was_copied_counts_as_one_seed(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    (group,) = grouped(runs)
    assert (len(group.runs), group.num_seeds) == (3, 2)


def test_an_export_that_is_damaged_is_named_and_one_that_is_not_there_is_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert read_run(run).export is None
    (run / "onnx").mkdir()
    for text, message in (("{broken", "export.json is not JSON"), ("[]", "has no metric"), ("{}", "has no metric")):
        (run / "onnx" / "export.json").write_text(text)
        with pytest.raises(DataError, match=message):
            _ = read_run(run).export


def test_stages_of_seeds_are_grouped_though_each_builds_on_its_own_seeds_student(tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        run = make_run(tmp_path / f"seed-{seed}" / "second", seed=seed)
        change_recipe(run, teacher={"model": f"{tmp_path}/seed-{seed}/first/student"})
        runs.append(read_run(run))
    assert len(grouped(runs)) == 1


def test_another_setting_makes_another_group(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    change_recipe(second, distillation={"temperature": 4.0})
    assert len(grouped([read_run(first), read_run(second)])) == 2


def test_groups_of_the_same_name_are_told_apart_by_more_of_their_path(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name / "run", shape=shape)) for name, shape in (("a", "T3"), ("b", "T6"))]
    assert [group.name for group in grouped(runs)] == ["a/run", "b/run"]


def test_runs_judged_by_other_measures_or_on_other_data_are_not_compared(tmp_path: Path) -> None:
    same, other = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    change_recipe(other, data={"train": "x.csv", "test": "other.csv"})
    tagging = make_run(tmp_path / "c", "token-classification")
    found = contests([read_run(run) for run in (same, other, tagging)])
    assert [(one.metric, one.source, len(one.groups)) for one in found] == [
        ("accuracy", "test.jsonl", 1), ("accuracy", "other.csv", 1), ("f1", "test.jsonl", 1)]
