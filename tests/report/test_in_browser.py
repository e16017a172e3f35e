"""Promises of the page in a browser: no errors, no requests, nothing wider than the window, in light and in dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillhouse.report import write_report
from tests.report.made_runs import LABELS, make_run

api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")

WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run, of one with long names and many words, of three seeds, and of several shapes."""
    folder = tmp_path_factory.mktemp("pages")
    names = [*LABELS, "a_class_with_a_name_that_goes_on_and_on_without_any_space"]
    one = make_run(folder / "one", names=names)
    tags = make_run(folder / ("a-run-with-a-long-name-" * 4), "token-classification")
    seeds = [make_run(folder / "T3" / f"seed-{seed}", seed=seed) for seed in range(3)]
    shapes = [make_run(folder / "shapes" / shape, shape=shape, parameters=parameters, skill=skill)
              for shape, parameters, skill in (("T6", 18_000_000, 0.95), ("T4-tiny", 6_000_000, 0.7))]
    runs = {"one": [one], "tags": [tags], "seeds": seeds, "shapes": [*seeds, *shapes]}
    return {name: write_report(found, folder / f"{name}.html") for name, found in runs.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "tags", "seeds", "shapes"])
def test_the_page_fits_the_window_and_asks_for_nothing(browser: Any, pages: dict[str, Path], name: str, width: int,
                                                       scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    try:
        page.goto(pages[name].as_uri())
        wide, title = page.evaluate("[document.documentElement.scrollWidth, document.title]")
        assert wide <= width
        assert title.endswith("report") and title != "taken"
        assert not problems
        assert requests == [pages[name].as_uri()]
    finally:
        page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_letters_stand_out_from_the_paper_in_charts_and_in_text(browser: Any, pages: dict[str, Path],
                                                                scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    try:
        page.goto(pages["one"].as_uri())
        paper = brightness(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        letters = page.evaluate(
            "[...document.querySelectorAll('p, h1, th, td, figcaption, .note')].map(e => getComputedStyle(e).color)"
            ".concat([...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill))")
        assert len(letters) > 100
        assert (paper > 0.8) is (scheme == "light")
        assert min(contrast(paper, brightness(letter)) for letter in letters) >= 4.5
    finally:
        page.close()


def test_letters_of_charts_can_be_read_on_a_phone(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    try:
        page.goto(pages["one"].as_uri())
        sizes = page.evaluate(
            "[...document.querySelectorAll('figure > svg')].flatMap(s => [...s.querySelectorAll('text')].map(t => "
            "parseFloat(getComputedStyle(t).fontSize) * s.getBoundingClientRect().width / s.viewBox.baseVal.width))")
        assert len(sizes) > 20 and min(sizes) >= 9
    finally:
        page.close()


def brightness(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    red, green, blue = (float(part) / 255 for part in color[color.index("(") + 1:-1].split(",")[:3])
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    """The ratio of WCAG 2; 4.5 is what texts need."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
