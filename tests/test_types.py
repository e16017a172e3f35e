"""Keys, units, progress and durations."""

from __future__ import annotations

import math

import pytest
import torch

from stillhouse.errors import ConfigError, UsageError
from stillhouse.types import Batch, Duration, Key, Over, Progress, Unit, logits_mask_name


@pytest.mark.parametrize(("key", "text"), [
    (Key("logits", 0), "logits[0]"), (Key("logits"), "logits"), (Key("hidden", -1), "hidden[-1]"),
    (Key("hidden", 3, "gram"), "hidden[3]:gram"), (Key("query", (1, 2)), "query[(1, 2)]"),
])
def test_keys_have_a_name_for_people(key: Key, text: str) -> None:
    assert str(key) == text


def test_keys_are_values() -> None:
    assert Key("hidden", 1) == Key("hidden", 1) and Key("hidden", 1) != Key("hidden", 1, "gram")
    assert len({Key("hidden", 1), Key("hidden", 1), Key("hidden", 2), Key("hidden")}) == 3


def test_each_logits_head_has_its_mask() -> None:
    assert [logits_mask_name(head) for head in range(3)] == ["logits", "logits.1", "logits.2"]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.float16])
def test_units_count_rows_tokens_and_pairs(dtype: torch.dtype) -> None:
    rows = [[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    mask = torch.tensor(rows, dtype=dtype)
    kept = [sum(row) for row in rows]
    assert Unit.ROW.count(mask).item() == sum(n > 0 for n in kept)
    assert Unit.TOKEN.count(mask).item() == sum(kept)
    assert Unit.PAIR.count(mask).item() == sum(n * n for n in kept)
    assert all(unit.count(mask).dtype == torch.float64 for unit in Unit)


def test_counts_are_exact_where_half_precision_is_not() -> None:
    mask = torch.ones(3, 4099, dtype=torch.float16)
    assert Unit.TOKEN.count(mask).item() == 3 * 4099
    assert Unit.PAIR.count(mask).item() == 3 * 4099**2


def test_denominators_have_a_name_for_people() -> None:
    assert str(Over(Unit.TOKEN, "logits")) == "tokens kept by the logits mask"


def test_progress_is_a_share_of_the_training() -> None:
    assert [Progress(step, 8).fraction for step in (0, 2, 8, 9)] == [0, 0.25, 1, 1]
    assert Progress(0, 0).fraction == 1


def test_batches_are_compared_by_identity() -> None:
    inputs = {"input_ids": torch.zeros(2, 2)}
    assert Batch(inputs, inputs) != Batch(inputs, inputs)


@pytest.mark.parametrize(("text", "duration", "steps"), [
    ("500 steps", Duration.steps(500), 500), ("1 step", Duration.steps(1), 1), (" 20steps ", Duration.steps(20), 20),
    ("2 epochs", Duration.epochs(2), 200), ("0.5 epoch", Duration.epochs(0.5), 50),
    (0.1, Duration.fraction(0.1), 100), (0, Duration.fraction(0), 0), (1, Duration.fraction(1), 1000),
])
def test_durations_are_read_and_counted_in_steps(text: str | float, duration: Duration, steps: int) -> None:
    assert Duration.parse(text) == duration
    assert Duration.parse(text).in_steps(steps_per_epoch=100, total_steps=1000) == steps


def test_durations_are_rounded_to_the_nearest_step() -> None:
    assert Duration.epochs(0.5).in_steps(steps_per_epoch=7, total_steps=70) in (3, 4)
    assert Duration.fraction(0.66).in_steps(steps_per_epoch=1, total_steps=10) == 7


@pytest.mark.parametrize(("text", "remedy"), [
    (500, "500 steps"), (-0.5, "share of training"), (math.nan, "share of training"), (True, "write a share"),
    ("500", "write a share"), ("ten steps", "write a share"), ("-1 steps", "write a share"),
    ("2.5 steps", "whole numbers"), ("", "write a share"),
])
def test_durations_that_say_nothing_are_refused(text: str | float, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy) as caught:
        Duration.parse(text)
    assert repr(text) in str(caught.value) and isinstance(caught.value, UsageError)
