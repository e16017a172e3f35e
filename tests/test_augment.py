"""Token-level augmentation: what each function promises, and reproducibility."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from stillhouse import augment
from stillhouse.augment import deleting, long_disorder, masking, n_gram_sampling, short_disorder
from stillhouse.errors import ConfigError

TOKENS = [f"t{i}" for i in range(40)]
FUNCTIONS: dict[str, Callable[..., list[str]]] = {
    "masking": lambda tokens, **kw: masking(tokens, p=0.3, **kw),
    "deleting": lambda tokens, **kw: deleting(tokens, p=0.3, **kw),
    "n_gram_sampling": lambda tokens, **kw: n_gram_sampling(tokens, **kw),
    "short_disorder": lambda tokens, **kw: short_disorder(tokens, p=[0.2] * 5, **kw),
    "long_disorder": lambda tokens, **kw: long_disorder(tokens, p=0.5, length=6, **kw),
}
every_function = pytest.mark.parametrize("augmented", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def test_the_examples_in_the_docstrings_hold() -> None:
    outcome = doctest.testmod(augment)
    assert outcome.attempted >= 5 and outcome.failed == 0


@every_function
def test_the_global_seed_decides_the_result(augmented: Callable[..., list[str]]) -> None:
    def drawn(seed: int) -> list[list[str]]:
        np.random.seed(seed)
        return [augmented(TOKENS) for _ in range(5)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@every_function
def test_a_random_state_gives_what_the_global_seed_gives(augmented: Callable[..., list[str]]) -> None:
    np.random.seed(5)
    expected = [augmented(TOKENS) for _ in range(5)]
    state = np.random.RandomState(5)
    assert [augmented(TOKENS, rng=state) for _ in range(5)] == expected


@every_function
def test_a_generator_decides_the_result_and_leaves_the_global_one_alone(augmented: Callable[..., list[str]]) -> None:
    np.random.seed(0)
    untouched = np.random.RandomState(0).random()
    first, second = (
        [augmented(TOKENS, rng=generator) for _ in range(5)]
        for generator in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert first == second
    assert np.random.random() == untouched


@every_function
def test_the_input_is_left_alone_and_the_result_is_a_new_list(augmented: Callable[..., list[str]]) -> None:
    given = list(TOKENS)
    assert augmented(given) is not given
    assert given == TOKENS


@every_function
def test_empty_and_tiny_inputs_work(augmented: Callable[..., list[str]]) -> None:
    assert augmented([]) == []
    for seed in range(20):
        assert len(augmented(["a", "b"], rng=np.random.RandomState(seed))) <= 2


def test_masking_hits_exactly_the_tokens_whose_number_is_below_p() -> None:
    numbers = np.random.RandomState(7).random(40)
    expected = ["[X]" if number < 0.3 else token for token, number in zip(TOKENS, numbers, strict=True)]
    assert masking(TOKENS, p=0.3, mask="[X]", rng=np.random.RandomState(7)) == expected
    assert 0 < expected.count("[X]") < 40


def test_masking_takes_any_mask() -> None:
    assert masking([5, 6, 7], p=1, mask=0) == [0, 0, 0]
    assert masking([5, 6, 7], p=0, mask=0) == [5, 6, 7]


def test_deleting_keeps_order_and_the_expected_share() -> None:
    kept = deleting(range(10_000), p=0.25, rng=np.random.RandomState(0))
    assert kept == sorted(set(kept))
    assert abs(len(kept) / 10_000 - 0.75) < 0.02
    assert deleting(TOKENS, p=1) == [] and deleting(TOKENS, p=0) == TOKENS


def test_sampled_stretches_are_contiguous_and_reach_both_ends() -> None:
    state = np.random.RandomState(0)
    seen = [n_gram_sampling(range(6), p_ng=[0.5, 0.5], l_ng=[2, 4], rng=state) for _ in range(300)]
    for stretch in seen:
        assert stretch == list(range(stretch[0], stretch[0] + len(stretch)))
    assert {(stretch[0], len(stretch)) for stretch in seen} == {(i, 2) for i in range(5)} | {(i, 4) for i in range(3)}
    assert abs(sum(len(stretch) == 2 for stretch in seen) - 150) < 45


@pytest.mark.parametrize("order", range(5))
def test_each_short_order_is_the_documented_one(order: int) -> None:
    probabilities = [float(i == order) for i in range(5)]
    width = [1, 2, 3, 3, 3][order]
    block = {0: "a", 1: "ba", 2: "cba", 3: "cab", 4: "bca"}[order]
    tokens = "abc"[:width] * 3
    assert short_disorder(tokens, p=probabilities) == list(block * 3)


@pytest.mark.parametrize(("order", "expected"), [(1, "badce"), (2, "cbade"), (3, "cabde"), (4, "bcade")])
def test_an_order_that_needs_more_tokens_than_are_left_changes_nothing(order: int, expected: str) -> None:
    assert short_disorder("abcde", p=[float(i == order) for i in range(5)]) == list(expected)


def test_short_disorder_is_a_permutation_that_moves_no_token_far() -> None:
    for seed in range(30):
        moved = short_disorder(range(31), p=[0.2] * 5, rng=np.random.RandomState(seed))
        assert sorted(moved) == list(range(31)) and moved != list(range(31))
        assert max(abs(token - place) for place, token in enumerate(moved)) <= 2


@pytest.mark.parametrize(
    ("num_tokens", "length", "expected"),
    [
        (8, 4, "cdabghef"),
        (9, 4, "cdabghefi"),  # what is left over stays
        (3, 4, "abc"),  # longer than the sequence
        (8, 0.5, "cdabghef"),  # a share
        (4, 1, "cdab"),  # 1 is the whole sequence
        (5, 5, "cdeab"),  # of an odd stretch nothing is lost
        (2, 0.1, "ab"),  # rounds to no token at all, and ends
        (3, 0.34, "abc"),  # one token has no halves
    ],
)
def test_long_disorder_swaps_halves(num_tokens: int, length: float, expected: str) -> None:
    assert long_disorder("abcdefghijk"[:num_tokens], p=1, length=length) == list(expected)


def test_long_disorder_is_a_permutation_made_of_swapped_stretches() -> None:
    """Undone by reading the result from the left: a place holds its own token, or a swapped stretch begins there."""
    moves = 0
    for seed, length in itertools.product(range(20), (2, 5, 6)):
        result = long_disorder(range(33), p=0.3, length=length, rng=np.random.RandomState(seed))
        place = 0
        while place < 33:
            if result[place] == place:
                place += 1
                continue
            stretch = list(range(place, place + length))
            half = length // 2
            assert result[place : place + length] == stretch[half:] + stretch[:half]
            place += length
            moves += 1
        assert long_disorder(range(33), p=0, length=length) == list(range(33))
    assert moves > 20


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda: masking(TOKENS, p=1.5), "p=1.5"),
        (lambda: deleting(TOKENS, p=-0.1), "p=-0.1"),
        (lambda: long_disorder(TOKENS, p=float("nan")), "p=nan"),
        (lambda: long_disorder(TOKENS, length=0), "length=0"),
        (lambda: long_disorder(TOKENS, length=1.5), "length=1.5"),
        (lambda: long_disorder(TOKENS, length=float("inf")), "length=inf"),
        (lambda: n_gram_sampling(TOKENS, p_ng=[1.0]), "5 choices"),
        (lambda: n_gram_sampling(TOKENS, p_ng=[1.0], l_ng=[0]), "at least 1 token"),
        (lambda: short_disorder(TOKENS, p=[0.5, 0.1, 0, 0, 0]), "adds up to 0.6"),
        (lambda: short_disorder(TOKENS, p=[1.5, -0.5, 0, 0, 0]), "from 0 to 1"),
    ],
)
def test_impossible_settings_are_named(wrong: Callable[[], object], found: str) -> None:
    with pytest.raises(ConfigError, match=found.replace(".", r"\.")):
        wrong()
