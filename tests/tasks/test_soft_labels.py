"""Promises of soft labels in the data: read from any file, checked cell by cell, and nothing where there are none."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from stillhouse.errors import ConfigError, DataError
from stillhouse.tasks.data_files import Rows, read_rows
from stillhouse.tasks.soft_labels import SoftLabels, num_without, read_soft_labels, soft_label_tensor

Write = Callable[..., str]
NAMES = ("bad", "fair", "good")
LISTS = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], None]
MAPPINGS = [{"good": 0.5, "bad": 0.2, "fair": 0.3}, {"bad": 1.0}, None]


def rows_of(*cells: Any) -> Rows:
    return Rows("data.jsonl", {"soft": list(cells)})


def read(*cells: Any, **settings: Any) -> list[list[float] | None]:
    return read_soft_labels(rows_of(*cells), SoftLabels.of(column="soft", **settings), NAMES)


@pytest.mark.parametrize("cells", [LISTS, MAPPINGS])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_every_file_and_both_ways_of_writing_mean_the_same(cells: list[Any], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    table = [{"text": "a", "soft": cell} for cell in cells]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["text", "soft"], *(["a", "" if cell is None else json.dumps(cell)] for cell in cells)])
    else:  # which holds None for what a mapping leaves out
        datasets.Dataset.from_list(table).to_parquet(path)
    first, second, third = read_soft_labels(read_rows(str(path)), SoftLabels.of(column="soft"), NAMES)
    assert first == pytest.approx([math.log(p) for p in (0.2, 0.3, 0.5)])
    assert second == pytest.approx([0.0, math.log(1e-8), math.log(1e-8)]) and third is None


def test_rows_without_soft_labels_are_zeros_that_no_loss_counts() -> None:
    values = read([0.2, 0.3, 0.5], None, {}, "")
    assert num_without(values) == 3
    soft, known = soft_label_tensor(values, 3)
    assert soft.shape == (4, 3) and soft.dtype == torch.float32
    assert known.tolist() == [[True], [False], [False], [False]]
    torch.testing.assert_close(soft[0].exp(), torch.tensor([0.2, 0.3, 0.5]))
    assert soft[1:].eq(0).all()


def test_rows_without_soft_labels_may_be_refused() -> None:
    with pytest.raises(DataError, match=r"data\.jsonl, row 2, column 'soft': there are no soft labels; leave the row"):
        read([0.2, 0.3, 0.5], None, rows_without="refuse")


def test_a_column_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.jsonl, column 'soft': no row has soft labels"):
        read(None, {})
    with pytest.raises(DataError, match=r"data\.jsonl: unknown column 'soft_labels'\. Known: soft"):
        read_soft_labels(rows_of(None), SoftLabels.of(column="soft_labels"), NAMES)


@pytest.mark.parametrize(("cell", "settings", "message"), [
    ([0.2, 0.8], {}, "has 2 numbers, and there are 3 labels"),
    ({"good": 0.5, "goo": 0.5}, {}, "unknown label 'goo': did you mean 'good'"),
    ({"good": 0.5, "bad": 0.3}, {}, r"2 of 3 labels add up to 0\.8 .*set missing_mass: renormalize"),
    ([-1.0, 2.0, 0.0], {}, "set form: logits"),
    ([0.2, 0.3, 0.5], {"form": "log_probabilities"}, "set form: probabilities"),
    ("0.2 0.3 0.5", {}, "no JSON text"),
])
def test_what_is_wrong_is_said_with_its_place_and_the_remedy(cell: Any, settings: Any, message: str) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl, row 2, column 'soft': .*" + message):
        read([0.2, 0.3, 0.5] if not settings else [0.0, -40.0, -40.0], cell, **settings)


def test_a_policy_for_missing_mass_is_followed() -> None:
    scaled, = read({"good": 0.6, "bad": 0.2}, missing_mass="renormalize")
    spread, = read({"good": 0.6, "bad": 0.2}, missing_mass="spread")
    assert scaled is not None and spread is not None
    assert [math.exp(v) for v in scaled] == pytest.approx([0.25, 1e-8, 0.75])
    assert [math.exp(v) for v in spread] == pytest.approx([0.2, 0.2, 0.6])


def test_logits_stay_as_they_are_unless_all_are_probabilities() -> None:
    assert read([2.0, -1.0, 0.5], [0.2, 0.3, 0.5], form="logits") == [[2.0, -1.0, 0.5], [0.2, 0.3, 0.5]]
    assert read([0.2, 0.3, 0.5], form="logits") == [[0.2, 0.3, 0.5]], "one row alone may be so by chance"
    with pytest.raises(DataError, match=r"every row are from 0 to 1 and add up to 1.*set form: probabilities"):
        read([0.2, 0.3, 0.5], None, [0.1, 0.1, 0.8], form="logits")


@pytest.mark.parametrize(("settings", "message"), [
    ({"form": "odds"}, "form: 'odds' is not one of"),
    ({"missing_mass": "ignore"}, "missing_mass: 'ignore' is not one of"),
    ({"columns": "a"}, "columns: unknown key; did you mean 'column'"),
])
def test_settings_are_checked(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SoftLabels.of(**{"column": "soft", **settings})
