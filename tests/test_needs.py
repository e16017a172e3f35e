"""Needs unite, and name themselves."""

from __future__ import annotations

from stillhouse.needs import Needs, indices
from stillhouse.types import ALL_LOGITS, LOGITS, Key


def test_needs_unite_by_side() -> None:
    first = Needs.of([LOGITS], [LOGITS, Key("hidden", 1)])
    both = first | Needs.of([Key("hidden", 2)], [Key("hidden", 1)])
    assert both == Needs.of([LOGITS, Key("hidden", 2)], [LOGITS, Key("hidden", 1)])
    assert first | Needs() == first


def test_needs_describe_themselves_in_one_line() -> None:
    needs = Needs.of(teacher=[LOGITS, Key("hidden", 0)])
    assert needs.describe() == "teacher: hidden[0], logits[0]; student: nothing"


def test_indices_are_those_of_one_kind_in_order() -> None:
    keys = [Key("hidden", 3), Key("hidden", -1), Key("attention", 0), LOGITS, ALL_LOGITS, Key("hidden", 0)]
    assert indices(keys, "hidden") == (-1, 0, 3)
    assert indices(keys, "logits") == (0,)
    assert indices(keys, "query") == ()
