"""The site is built without a warning, needs nothing from the network, and shows every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import stillhouse
from tests.docs.pages import PAGES, ROOT

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings_handlers.python")

LOADS = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
LOADING_LINKS = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "icon", "manifest", "modulepreload"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)], cwd=ROOT, text=True,
        capture_output=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1", "no_proxy": "",
             "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"})
    said = built.stdout + built.stderr
    assert built.returncode == 0 and "WARNING" not in said, said
    return folder


class Resources(HTMLParser):
    """What a page loads when it is opened, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag in LOADS and LOADS[tag] in values:
            self.loaded.append(values[LOADS[tag]])
        if tag == "link" and LOADING_LINKS & set(values.get("rel", "").split()):
            self.loaded.append(values["href"])


def pages(site: Path) -> dict[str, Resources]:
    return {str(path.relative_to(site)): Resources(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_what_a_page_loads_is_found() -> None:
    found = Resources('<link rel="preload stylesheet" href="a"><link rel="canonical" href="b"><script src="c"></script>'
                      '<a href="d"></a><p id="e">')
    assert found.loaded == ["a", "c"] and found.anchors == {"e"}


def test_no_page_loads_anything_from_the_network(site: Path) -> None:
    for name, page in pages(site).items():
        assert page.loaded and not [address for address in page.loaded if re.match(r"(https?:)?//", address)], name
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path
    # The theme's script fetches a renderer where a page has a diagram, and nothing otherwise.
    assert not [path for path in site.rglob("*.html") if 'class="mermaid"' in path.read_text(encoding="utf-8")]


def test_every_page_of_docs_is_there_and_what_it_loads_too(site: Path) -> None:
    built = pages(site)
    for page in PAGES:
        if page.startswith("docs/"):
            name = page.removeprefix("docs/").replace("README.md", "index.md").replace(".md", ".html")
            assert name in built, page
    for name, page in built.items():
        missing = [address for address in page.loaded if name != "404.html"
                   and not ((site / name).parent / address.split("?")[0].split("#")[0]).exists()]
        assert not missing, name


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    anchors = set().union(*(page.anchors for name, page in pages(site).items() if name.startswith("api")))
    missing = [name for name in stillhouse.__all__ if name != "__version__"
               and f"{stillhouse._HOME_OF[name]}.{name}" not in anchors]
    assert not missing
    for name in ("losses.HiddenMSE", "presets.register_new", "tasks.Task", "teachers.stores.MemoryStore",
                 "training.JsonLinesSink", "testing.teachers.TeacherSourceSuite"):
        assert f"stillhouse.{name}" in anchors


def test_examples_in_docstrings_are_code_and_losses_name_their_papers(site: Path) -> None:
    students = (site / "api" / "students.html").read_text(encoding="utf-8")
    losses = (site / "api" / "losses.html").read_text(encoding="utf-8")
    assert '<span class="gp">&gt;&gt;&gt; </span><span class="n">StudentSpec</span>' in students
    assert "Paper: Hinton et al. 2015" in losses and "Paper: Jiao et al. 2020" in losses


def test_decisions_are_listed(site: Path) -> None:
    listed = (site / "decisions" / "index.html").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        assert path.with_suffix(".html").name in listed
