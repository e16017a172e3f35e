"""Promises of the tagging metrics, against an extraction of entities written anew and against seqeval itself."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score

from stillhouse.errors import DataError
from stillhouse.metrics import entity_metrics, is_chunked

IOB = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
IOBES = [*IOB, "E-PER", "E-LOC", "S-PER", "S-LOC"]


def naive_entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Type, first and last token of each entity: one goes on while nothing says that it ends or another begins."""
    found, first = set(), None
    for i, tag in enumerate(tags):
        position, _, kind = tag.partition("-")
        goes_on = first is not None and kind == tags[first].partition("-")[2] and position in "IE"
        if first is not None and not goes_on:
            found.add((tags[first].partition("-")[2], first, i - 1))
            first = None
        if position != "O" and first is None:
            first = i
        if first is not None and position in "ES":
            found.add((kind, first, i))
            first = None
    return found | ({(tags[first].partition("-")[2], first, len(tags) - 1)} if first is not None else set())


def naive_scores(predicted: list[list[str]], wanted: list[list[str]]) -> dict[str, float]:
    """Precision, recall and F1 of entities, and the share of equal tags."""
    found, right = ({(i, *entity) for i, tags in enumerate(rows) for entity in naive_entities(tags)}
                    for rows in (predicted, wanted))
    hits = len(found & right)
    tokens = [a == b for rows in zip(predicted, wanted, strict=True) for a, b in zip(*rows, strict=True)]
    return {"precision": hits / len(found) if found else 0.0, "recall": hits / len(right) if right else 0.0,
            "f1": 2 * hits / (len(found) + len(right)) if hits else 0.0, "token_accuracy": sum(tokens) / len(tokens)}


def random_tags(names: list[str], seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences of any tags, and predictions that differ in a quarter of them."""
    rng = random.Random(seed)
    wanted = [[rng.choice([*names, "O"]) for _ in range(rng.randint(0, 12))] for _ in range(25)]
    return [[rng.choice(names) if rng.random() < 0.25 else tag for tag in tags] for tags in wanted], wanted


@pytest.mark.parametrize("names", [IOB, IOBES])
@pytest.mark.parametrize("seed", range(5))
def test_entity_scores_equal_seqeval_and_counting_by_hand(names: list[str], seed: int) -> None:
    predicted, wanted = random_tags(names, seed)
    found = entity_metrics(predicted, wanted)
    assert found == pytest.approx(naive_scores(predicted, wanted))
    assert found["precision"] == pytest.approx(precision_score(wanted, predicted))
    assert found["recall"] == pytest.approx(recall_score(wanted, predicted))
    assert found["f1"] == pytest.approx(f1_score(wanted, predicted))
    assert 0.1 < found["f1"] < 0.95


def test_an_entity_needs_its_type_and_both_ends() -> None:
    wanted = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "I-LOC", "B-LOC", "O"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "I-LOC", "I-LOC", "O"]]
    assert entity_metrics(predicted, wanted) == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 4, "f1": 2 / 7, "token_accuracy": 6 / 8})


def test_an_entity_may_begin_without_b_as_in_conlleval() -> None:
    assert entity_metrics([["O", "I-PER", "I-PER", "I-LOC"]], [["O", "B-PER", "I-PER", "B-LOC"]])["f1"] == 1.0


def test_entities_end_with_their_sentence() -> None:
    assert entity_metrics([["B-PER"], ["I-PER"]], [["B-PER"], ["B-PER"]])["f1"] == 1.0


@pytest.mark.parametrize("letters", [{"E": "L", "S": "U"}, {"I": "M"}])
def test_bilou_and_bmes_score_as_iobes(letters: dict[str, str]) -> None:
    predicted, wanted = random_tags(IOBES, seed=7)
    renamed = [[[letters.get(tag[0], tag[0]) + tag[1:] for tag in tags] for tags in rows]
               for rows in (predicted, wanted)]
    assert renamed != [predicted, wanted]
    assert entity_metrics(*renamed) == entity_metrics(predicted, wanted)


def test_scores_without_entities_are_zero_and_silent() -> None:
    nothing, something = [["O", "O"]], [["B-PER", "O"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert entity_metrics(nothing, nothing) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "token_accuracy": 1.0}
        assert entity_metrics(nothing, something)["precision"] == 0.0
        assert entity_metrics(something, nothing)["recall"] == 0.0


def test_tuples_are_sentences_too() -> None:
    assert entity_metrics((("B-PER", "O"), ("O",)), (("B-PER", "O"), ("O",)))["f1"] == 1.0


@pytest.mark.parametrize(("predicted", "wanted", "message"), [
    ([["O"]], [["O"], ["O"]], "1 sentences of predicted tags and 2 of wanted ones"),
    ([["O"], ["O"]], [["O"], ["O", "O"]], "sentence 1 .counted from 0. has 1 predicted tags and 2 wanted ones"),
    ([], [], "no tokens to score"),
    ([[]], [[]], "no tokens to score"),
    ([["O"]], [["NOUN"]], "the tag 'NOUN' marks no part of an entity.*accuracy and macro_f1"),
    ([[""]], [["O"]], "the tag '' marks no part"),
])
def test_tags_that_do_not_fit_are_refused(predicted: list[list[str]], wanted: list[list[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        entity_metrics(predicted, wanted)


@pytest.mark.parametrize(("names", "chunked"), [
    (IOB, True), (IOBES, True), (["O", "B-PER", "I-PER", "L-PER", "U-PER"], True), (["B", "M", "E", "S"], True),
    (["O", "B-creative-work", "I-creative-work"], True), (["NOUN", "VERB", "O"], False), (["B-PER", "X"], False),
    (["O"], False), ([], False), (["IN", "B-PER"], False), (["B-", "O"], False),
])
def test_chunked_labels_are_those_of_entities(names: list[str], chunked: bool) -> None:
    assert is_chunked(names) is chunked


def test_importing_the_metrics_does_not_load_seqeval() -> None:
    script = "import sys, stillhouse.metrics; sys.exit('seqeval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
