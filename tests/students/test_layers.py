"""Promises of choosing and finding a teacher's layers."""

from __future__ import annotations

import pytest
from torch import nn

from stillhouse.errors import PlanError
from stillhouse.students import layers


def test_every_second_layer_starts_at_the_first() -> None:
    assert layers.every_second(12) == (0, 2, 4, 6, 8, 10)
    assert layers.every_second(5) == (0, 2, 4)
    assert layers.every_second(1) == (0,)


@pytest.mark.parametrize("depth", range(1, 13))
def test_spread_layers_are_as_many_as_asked_and_as_even_as_can_be(depth: int) -> None:
    for count in range(1, depth + 1):
        found = layers.spread(depth, count)
        gaps = {after - before for before, after in zip(found, (*found[1:], depth), strict=True)}
        assert len(found) == count
        assert found[0] == 0
        assert max(gaps) - min(gaps) <= 1


def test_negative_layers_count_from_the_end() -> None:
    assert layers.chosen([0, -2, -1], depth=6) == (0, 4, 5)


@pytest.mark.parametrize(("asked", "message"), [
    ([], r"no layers are kept.*layers: \[0\]"),
    ([0, 6], "layer 6 does not exist: the teacher has 6 layers, 0 to 5"),
    ([-7], "layer -7 does not exist"),
    ([True], "layer True does not exist"),
    ([2, 1], r"not in increasing order without repetition: write \[1, 2\]"),
    ([4, -2], r"write \[4\]"),
])
def test_impossible_layers_are_refused_with_their_remedy(asked: list[int], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        layers.chosen(asked, depth=6)


def test_the_layers_are_the_outermost_list_of_the_right_length() -> None:
    block = nn.ModuleDict({"parts": nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])})
    other = nn.ModuleList([nn.Linear(1, 1)] * 3)
    model = nn.ModuleDict({"heads": other, "body": nn.ModuleDict({"stack": nn.ModuleList([block, block])})})
    assert layers.layer_list(model, depth=2) == "body.stack"


def test_two_candidate_lists_are_refused() -> None:
    model = nn.ModuleDict({name: nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]) for name in ("left", "right")})
    with pytest.raises(PlanError, match=r"2 lists \(left, right\) of 2 modules.*\{model: PATH\}"):
        layers.layer_list(model, depth=2)
