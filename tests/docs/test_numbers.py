"""Numbers on the pages are those that were measured or that a formula gives."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import text_of

MEASURED = text_of("docs/log.md") + text_of("docs/performance.md") + text_of("docs/recipes.md")
"""The pages that numbers come from: the second is made from files of results, the first says how each was made."""


def cells(page: str, first: str) -> list[float]:
    """The numbers in the row of a table that starts with ``first``."""
    (row,) = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", text_of(page), flags=re.MULTILINE)
    return [float(cell) for cell in row.split("|") if cell.strip()]


def test_the_example_of_normalisation_is_what_the_formula_gives() -> None:
    page = "docs/concepts/normalisation.md"
    squares = {"row 1": [2.0**2] * 2, "row 2": [1.0**2] * 6}
    for name, values in squares.items():
        assert cells(page, name) == [sum(values), len(values), sum(values) / len(values)]
    everything = [value for values in squares.values() for value in values]
    assert cells(page, "both, as one batch") == [sum(everything), len(everything), sum(everything) / len(everything)]
    means = [sum(values) / len(values) for values in squares.values()]
    assert cells(page, "mean of the two means") == [sum(means) / 2]
    assert 2 * sum(everything) / len(everything) == 3.5 and 2 * sum(means) / 2 == 5  # d/dw of mean * w**2 at w = 1
    assert "gradient 3.50" in text_of(page) and "it would be 5." in text_of(page)


PERCENT_OR_SCORE = re.compile(r"\b(?:0\.\d{3,4}|\d{2}\.\d+ %)")


@pytest.mark.parametrize("page", ["docs/choosing.md", *(f"docs/how-to/{name}.md" for name in (
    "text-classification", "token-classification", "question-answering", "sentence-embedding", "masked-words"))])
def test_every_score_on_a_page_is_in_the_log(page: str) -> None:
    scores = PERCENT_OR_SCORE.findall(text_of(page))
    assert scores and not [score for score in scores if score not in MEASURED]


@pytest.mark.parametrize("number", ["2.8", "8.0", "11.3", "147.6", "38.7", "2,323", "5,013", "37.46", "37.77", "53.5",
                                    "46.8", "15.6", "17.4", "22.7"])
def test_other_numbers_of_choosing_are_in_the_log(number: str) -> None:
    alone = re.compile(rf"(?<![\d.,]){re.escape(number)}(?![\d.,]*\d)")
    assert alone.search(MEASURED)
    assert alone.search(text_of("docs/choosing.md") + text_of("docs/how-to/masked-words.md"))
