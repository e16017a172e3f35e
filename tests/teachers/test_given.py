"""A teacher that is only numbers: it answers with what the batch holds, and what may be held is checked."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.batches import row_keys
from stillhouse.errors import OutputError, PlanError
from stillhouse.losses.logits import ForwardKL, LogitMSE, SoftCrossEntropy
from stillhouse.teachers import CachedTeacher, EnsembleTeacher, GivenTeacher, TeacherSource
from stillhouse.teachers.given import LOWEST_PROBABILITY, logits_row
from stillhouse.teachers.stores import MemoryStore
from stillhouse.testing.teachers import TeacherSourceSuite
from stillhouse.types import ALL_LOGITS, LOGITS, Batch, Key


def with_soft_labels(batch: Batch, num_labels: int = 3) -> Batch:
    rows = len(batch.teacher["input_ids"])
    soft = torch.randn(rows, num_labels, generator=torch.Generator().manual_seed(rows))
    inputs = {**batch.teacher, "soft_labels": soft}
    return dataclasses.replace(batch, student=inputs, teacher=inputs)


class TestGivenTeacher(TeacherSourceSuite):
    impossible_keys = frozenset({Key("hidden", 0), Key("attention", 0), Key("logits", 1)})

    def make_source(self) -> TeacherSource:
        return GivenTeacher(3)

    def make_batches(self) -> list[Batch]:
        return [with_soft_labels(batch) for batch in super().make_batches()]


def batch_of(soft: Any) -> Batch:
    inputs = {"input_ids": torch.zeros(2, 4, dtype=torch.long), "soft_labels": soft}
    return Batch(inputs, inputs)


def test_the_numbers_of_the_batch_are_the_answer() -> None:
    soft = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]])
    source = GivenTeacher()
    for key in (LOGITS, ALL_LOGITS):
        assert source.signals(batch_of(soft), frozenset({key}))[LOGITS].equal(soft)
    assert source.rows_forwarded == 0 and source.width(LOGITS) is None and GivenTeacher(3).width(LOGITS) == 3


def test_numbers_have_no_layers() -> None:
    with pytest.raises(PlanError, match=r"cannot give hidden\[1\]: there are no layers behind them; drop the matches"):
        GivenTeacher(3).check(frozenset({LOGITS, Key("hidden", 1)}))


@pytest.mark.parametrize("soft", [torch.zeros(2, 4), torch.zeros(3, 3), torch.zeros(3), torch.tensor(0.0),
                                  torch.zeros(2, 3, dtype=torch.long)])
def test_numbers_of_another_shape_or_kind_are_refused(soft: torch.Tensor) -> None:
    with pytest.raises(OutputError, match=r"give floating-point numbers of \(2, 3\)"):
        GivenTeacher(3).signals(batch_of(soft), frozenset({LOGITS}))


def test_a_batch_without_numbers_is_refused() -> None:
    inputs = {"input_ids": torch.zeros(2, 4)}
    with pytest.raises(OutputError, match="holds no tensor 'soft_labels' but input_ids"):
        GivenTeacher(3).signals(Batch(inputs, inputs), frozenset({LOGITS}))
    with pytest.raises(OutputError, match="but a tuple"):
        GivenTeacher(3).signals(Batch((1,), (1,)), frozenset({LOGITS}))


def test_soft_labels_are_no_part_of_a_rows_name() -> None:
    one, other = batch_of(torch.zeros(2, 3)), batch_of(torch.ones(2, 3))
    assert row_keys(one.teacher) == row_keys(other.teacher)


def test_so_a_cache_leaves_numbers_alone() -> None:
    def cached(leaf: TeacherSource) -> TeacherSource:
        return CachedTeacher(leaf, MemoryStore())

    source = EnsembleTeacher([GivenTeacher(3)]).map_leaves(cached)
    for soft in (torch.zeros(2, 3), torch.ones(2, 3)):
        assert source.signals(batch_of(soft), frozenset({LOGITS}))[LOGITS].equal(soft)


# What one row of numbers becomes


def probabilities(row: list[float] | None) -> list[float]:
    assert row is not None
    return [math.exp(value) for value in row]


NAMES = ["bad", "fair", "good"]


@pytest.mark.parametrize("values", [[0.2, 0.3, 0.5], {"good": 0.5, "bad": 0.2, "fair": 0.3}, (0.2, 0.3, 0.5),
                                    "[0.2, 0.3, 0.5]", json.dumps({"good": 0.5, "bad": 0.2, "fair": 0.3}),
                                    list(np.float32([0.2, 0.3, 0.5]))])
def test_lists_mappings_and_their_json_mean_the_same(values: Any) -> None:
    found = logits_row(values, "probabilities", label_names=NAMES)
    assert probabilities(found) == pytest.approx([0.2, 0.3, 0.5], rel=1e-6)


def test_log_probabilities_are_the_same_as_their_probabilities_and_logits_stay() -> None:
    distribution = [0.2, 0.0, 0.8]
    logs = [math.log(0.2), -math.inf, math.log(0.8)]
    assert logits_row(logs, "log_probabilities") == pytest.approx(logits_row(distribution, "probabilities"))
    assert logits_row([3, -2.5, 0], "logits") == [3.0, -2.5, 0.0]


def test_no_probability_is_so_small_that_a_loss_is_not_finite() -> None:
    row = logits_row([0.0, 1.0, 0.0], "probabilities")
    assert probabilities(row) == pytest.approx([LOWEST_PROBABILITY, 1.0, LOWEST_PROBABILITY])
    teacher, student = torch.tensor([[row]]), torch.randn(1, 1, 3)
    for loss in (ForwardKL, LogitMSE, SoftCrossEntropy):
        for temperature in (0.5, 1.0, 8.0):
            assert bool(loss.per_token(student, teacher, temperature).isfinite().all())


def test_a_probability_of_0_is_never_more_than_another_one() -> None:
    for form, row in (("probabilities", [0.0, 1e-12, 1.0]), ("log_probabilities", [-math.inf, -40.0, 0.0])):
        none, little, much = logits_row(row, form)  # type: ignore[misc, arg-type]
        assert none == little < much
        assert little == pytest.approx(math.log(1e-12) if form == "probabilities" else -40.0)


PARTIAL = {"good": 0.6, "bad": 0.2}


def test_mass_that_is_missing_is_refused_scaled_or_spread() -> None:
    four = [*NAMES, "best"]
    with pytest.raises(ValueError, match=r"2 of 4 labels add up to 0\.8 and not to 1; set missing_mass: renormalize"):
        logits_row(PARTIAL, "probabilities", label_names=four)
    scaled = logits_row(PARTIAL, "probabilities", missing_mass="renormalize", label_names=four)
    assert probabilities(scaled) == pytest.approx([0.25, LOWEST_PROBABILITY, 0.75, LOWEST_PROBABILITY])
    spread = logits_row(PARTIAL, "probabilities", missing_mass="spread", label_names=four)
    assert probabilities(spread) == pytest.approx([0.2, 0.1, 0.6, 0.1])
    logs = {name: math.log(value) for name, value in PARTIAL.items()}
    assert logits_row(logs, "log_probabilities", missing_mass="spread", label_names=four) == pytest.approx(spread)


def test_labels_without_mass_may_be_left_out_of_a_mapping() -> None:
    for policy in ("refuse", "renormalize", "spread"):
        found = logits_row({"good": 1.0, "fair": None}, "probabilities", missing_mass=policy,  # type: ignore[arg-type]
                           label_names=NAMES)
        assert probabilities(found) == pytest.approx([LOWEST_PROBABILITY, LOWEST_PROBABILITY, 1.0])


def test_a_mapping_that_mentions_no_label_says_nothing() -> None:
    assert logits_row({}, "probabilities", label_names=NAMES) is None
    assert logits_row({"good": None}, "logits", label_names=NAMES) is None


@pytest.mark.parametrize(("values", "form", "policy", "message"), [
    ([0.5, 0.5], "probabilities", "refuse", r"\[0\.5, 0\.5\] has 2 numbers, and there are 3 labels"),
    ([], "probabilities", "refuse", r"\[\] has 0 numbers"),
    ([-0.1, 0.6, 0.5], "probabilities", "refuse", r"-0\.1 in \[.*a probability is from 0 to 1; if these are logits"),
    ([1.5, 0.2, 0.1], "probabilities", "refuse", r"1\.5 in .*set form: logits"),
    ([-0.1, -3.0, -4.0], "probabilities", "refuse", "look like log-probabilities: set form: log_probabilities"),
    ([0.4, 0.4, 0.3], "probabilities", "refuse", r"add up to 1\.1, more than 1; divide them by their sum"),
    ([0.2, 0.3, 0.5], "log_probabilities", "refuse", "look like probabilities: set form: probabilities"),
    ([2.0, -1.0, 0.5], "log_probabilities", "refuse", "at most 0; if these are logits, set form: logits"),
    ([-0.1, -0.2, -0.3], "log_probabilities", "refuse", "add up to .*more than 1; if these are logits"),
    ([0.1, math.nan, 0.5], "probabilities", "refuse", "not finite"),
    ([0.1, math.inf, 0.5], "logits", "refuse", "not finite"),
    ([0.1, -math.inf, 0.5], "logits", "refuse", "not finite"),
    ("[0.1, NaN, 0.5]", "probabilities", "refuse", "not finite"),
    (["0.1", "0.4", "0.5"], "probabilities", "refuse", "'0.1' is a text; write numbers without quotes"),
    ([True, 0, 0], "probabilities", "refuse", "True is a bool and no number"),
    ([10**400, 0, 0], "logits", "refuse", "too large a number"),
    ("0.5 0.5", "probabilities", "refuse", "no list of numbers, no mapping .* and no JSON text"),
    ("0.5", "probabilities", "refuse", "0.5 is a float; give a list"),
    ({"goood": 1.0}, "probabilities", "refuse", "unknown label 'goood': did you mean 'good'"),
    ({"good": 1.0}, "logits", "refuse", "only 1 of 3 labels have a logit"),
    ([0.2, 0.2, 0.2], "probabilities", "spread", "no label is left to share the rest; set missing_mass: renormalize"),
    ([0.0, 0.0, 0.0], "probabilities", "renormalize", "nothing can be scaled up"),
])
def test_a_row_that_cannot_be_meant_is_refused_with_the_remedy(values: Any, form: Any, policy: Any,
                                                               message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logits_row(values, form, missing_mass=policy, label_names=NAMES)


def test_a_mapping_needs_label_names() -> None:
    with pytest.raises(ValueError, match="give label_names, or a list"):
        logits_row({"good": 1.0}, "probabilities", num_labels=3)
