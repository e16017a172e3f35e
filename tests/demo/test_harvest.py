"""The demo's text: what becomes a row, and that nothing leaks from one split to another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from stillhouse.demo.harvest import (
    LIBRARIES,
    MAX_LENGTH,
    MAX_PER_FILE,
    MIN_LENGTH,
    SPLITS,
    Harvest,
    docstrings,
    first_paragraph,
    harvest,
    harvest_roots,
    library_root,
    mask_pattern,
    split_of,
    write,
)
from stillhouse.errors import ConfigError, DataError

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SHARED = "Both of the libraries carry this very sentence in their files."


def _package(root: Path, subject: str, extra: Mapping[str, str] | None = None) -> Path:
    """60 files with twelve functions each; every docstring differs in more than digits."""
    for index in range(60):
        word = "".join(NUMBERS[int(digit)] for digit in str(index))
        lines = [f'"""The module about {subject} that is called {word} by its own authors."""']
        for number in NUMBERS:
            text = f"Return the {number} best {subject} of the {word} field, sorted by their weight."
            lines.append(f'def f_{number}():\n    """{text}\n\n    A second paragraph, never taken.\n    """')
        (root / "inner").mkdir(parents=True, exist_ok=True)
        (root / "inner" / f"part_{index}.py").write_text("\n".join(lines))
    for name, source in (extra or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    return root


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    shared = {"shared.py": f'"""{SHARED}"""', "broken.py": '"""Not Python at all, as the next line shows."""\ndef ('}
    return {
        "orchard": _package(tmp_path / "orchard", "apples", shared),
        "harbour": _package(tmp_path / "harbour", "ships", {"copy.py": f'"""{SHARED.title()}"""'}),
    }


def _texts(result: Harvest, split: str) -> list[str]:
    return [row["text"] for row in result.rows(split)]


def _assert_no_leak(result: Harvest) -> None:
    texts = [text for split in SPLITS for text in _texts(result, split)]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert all(MIN_LENGTH <= len(text) <= MAX_LENGTH and text == " ".join(text.split()) for text in texts)
    forms = {split: {re.sub(r"\d", "", text.lower()) for text in _texts(result, split)} for split in SPLITS}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not result.sources[a] & result.sources[b]
        assert not forms[a] & forms[b]


def test_the_same_files_give_the_same_rows_wherever_they_lie(roots: dict[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "orchard"
    moved.parent.mkdir()
    moved.symlink_to(roots["orchard"], target_is_directory=True)
    first = harvest_roots(roots, max_per_class=200, min_per_class=50)
    again = harvest_roots({"harbour": roots["harbour"], "orchard": moved}, max_per_class=200, min_per_class=50)
    assert first == again
    other = harvest_roots(roots, max_per_class=200, min_per_class=50, seed=1)
    assert first.sources["train"] != other.sources["train"]
    assert not first.sources["train"] & (other.sources["validation"] | other.sources["test"])


def test_every_class_has_its_quota_and_no_more(roots: dict[str, Path]) -> None:
    result = harvest_roots(roots, max_per_class=200, min_per_class=50)
    assert result.class_names == ["harbour", "orchard"]
    assert result.counts["train"] == {"harbour": 160, "orchard": 160}
    for split in SPLITS:
        rows = result.rows(split)
        assert {name: sum(row["library"] == name for row in rows) for name in result.class_names} == (
            result.counts[split]
        )
        assert all(count <= 200 * 0.8 for count in result.counts[split].values())
        libraries = [row["library"] for row in rows]
        assert libraries != sorted(libraries), "classes are mixed, not one after the other"


def test_nothing_of_a_synthetic_package_is_in_two_splits(roots: dict[str, Path]) -> None:
    _assert_no_leak(harvest_roots(roots, max_per_class=1000, min_per_class=50))


def test_a_text_of_two_libraries_is_in_neither_whatever_its_case(roots: dict[str, Path]) -> None:
    result = harvest_roots(roots, max_per_class=1000, min_per_class=50)
    assert first_paragraph(SHARED.title()) and SHARED.casefold() not in {
        text.casefold() for split in SPLITS for text in _texts(result, split)
    }
    alone = harvest_roots({"orchard": roots["orchard"]}, max_per_class=1000, min_per_class=50)
    assert SHARED in {text for split in SPLITS for text in _texts(alone, split)}


def test_texts_that_differ_in_digits_stay_out_of_later_splits(tmp_path: Path) -> None:
    names = [f"part_{index}.py" for index in range(60)]
    copies = {
        name: f'"""Support for revision {i} of the well known exchange format."""' for i, name in enumerate(names)
    }
    result = harvest_roots({"only": _package(tmp_path / "p", "stars", copies)}, max_per_class=2000, min_per_class=50)
    revisions = {split: sum("revision" in text for text in _texts(result, split)) for split in SPLITS}
    in_train = sum(split_of(name) == "train" for name in names)
    assert 0 < in_train < len(names)
    assert revisions == {"train": in_train, "validation": 0, "test": 0}


def test_one_large_file_gives_only_part_of_the_rows(tmp_path: Path) -> None:
    words = [f"{a}{b}" for a in NUMBERS for b in NUMBERS]
    large = "\n".join(f'def {w}():\n    """Return whatever the {w} engine has measured so far."""' for w in words)
    root = _package(tmp_path / "p", "stars", {"large.py": large})
    result = harvest_roots({"only": root}, max_per_class=2000, min_per_class=50)
    assert sum("engine" in text for split in SPLITS for text in _texts(result, split)) == MAX_PER_FILE < len(words)


def test_tests_and_vendored_code_are_not_read(tmp_path: Path) -> None:
    secret = '"""The sentence that no row may hold because of where it lies."""'
    extra = {f"{name}/a.py": secret for name in ("tests", "_vendor", "site-packages", "deep/test", ".hidden")}
    result = harvest_roots({"only": _package(tmp_path / "p", "stars", extra)}, max_per_class=2000, min_per_class=50)
    assert not any("no row may hold" in text for split in SPLITS for text in _texts(result, split))


def test_a_class_with_too_few_texts_does_not_take_part(roots: dict[str, Path], tmp_path: Path) -> None:
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    (tiny / "a.py").write_text('"""One lonely sentence that is long enough to be counted as a row."""')
    result = harvest_roots({**roots, "tiny": tiny}, max_per_class=200, min_per_class=50)
    assert result.class_names == ["harbour", "orchard"]
    assert not any(source.startswith("tiny/") for split in SPLITS for source in result.sources[split])


def test_docstrings_are_those_of_modules_and_public_definitions_and_nothing_is_executed() -> None:
    source = b'''"""Module."""
raise SystemExit("executed")
if True:
    class A:
        """Class."""
        async def f(self):
            """Method."""
            def inner():
                """Inner."""
        def _hidden(self):
            """Private."""
            def g():
                """In private."""
else:
    try:
        x = """Not a docstring."""
    except ImportError:
        def fallback():
            """Fallback."""
'''
    assert list(docstrings(source)) == ["Module.", "Class.", "Method.", "Inner.", "Fallback."]
    assert list(docstrings(b'"""Open."""\ndef (')) == []
    assert list(docstrings(b'def f():\n    """An invalid \\d escape."""')) == [r"An invalid \d escape."]


@pytest.mark.parametrize(
    "not_prose",
    [
        "Too short to say anything.",
        "Far too long " + "and longer " * 40,
        "concat(objs, axis, join, ignore_index, keys, levels, names, verify) -> DataFrame",
        ">>> from package import a_very_long_name ; a_very_long_name(1)",
        "Name Meaning Default ------- ------------ --------- left the left one 3",
        "x (`int`, *optional*): The number of query tokens that pass through here.",
        "Compute it. Args: left: the left one. right: the right one of the two.",
        "0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07 0x08 0x09 0x0a 0x0b 0x0c are the codes",
    ],
)
def test_what_is_not_a_sentence_of_the_right_length_is_left_out(not_prose: str) -> None:
    assert first_paragraph(not_prose) is None


def test_the_first_paragraph_is_taken_with_its_white_space_made_plain() -> None:
    docstring = "\n  Return the best apples\n\tof the orchard,  sorted by their weight.\n  \n  Never this one."
    assert first_paragraph(docstring) == "Return the best apples of the orchard, sorted by their weight."


def test_a_librarys_name_is_masked_in_every_class() -> None:
    pattern = mask_pattern(("pandas", "torch"))
    text = "Is pandas' TORCH_DTYPE, a pd.Series or PyTorch tensor, torchvision's?"
    assert (
        pattern.sub("library", text) == "Is library' library_DTYPE, a library.Series or library tensor, torchvision's?"
    )


def test_files_split_in_about_eight_one_one() -> None:
    splits = [split_of(f"folder/part_{index}.py") for index in range(4000)]
    shares = [splits.count(split) / len(splits) for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_written_files_hold_the_rows_and_nothing_else_is_left(roots: dict[str, Path], tmp_path: Path) -> None:
    result = harvest_roots(roots, max_per_class=100, min_per_class=50)
    folder = tmp_path / "deep" / "data"
    paths = write(result, folder)
    assert write(result, str(folder)) == paths
    assert set(paths) == {*SPLITS, "label_names"}
    assert {path.name for path in folder.iterdir()} == {path.name for path in paths.values()}
    for split in SPLITS:
        lines = paths[split].read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == result.rows(split)
    assert json.loads(paths["label_names"].read_text()) == ["harbour", "orchard"]


def test_the_standard_library_gives_rows_without_a_leak() -> None:
    result = harvest(["python"], max_per_class=150, min_per_class=100)
    _assert_no_leak(result)
    assert result.counts == {"train": {"python": 120}, "validation": {"python": 15}, "test": {"python": 15}}
    assert result == harvest(["python"], max_per_class=150, min_per_class=100)
    assert not any(mask_pattern(LIBRARIES).search(text) for text in _texts(result, "train"))
    root = library_root("python")
    assert root is not None
    assert all((root / source.removeprefix("python/")).is_file() for source in result.sources["train"])


def test_bad_requests_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="no_such_library_here: install it"):
        harvest(["python", "no_such_library_here"])
    with pytest.raises(ConfigError, match="min_per_class=5 and max_per_class=4"):
        harvest(["python"], max_per_class=4, min_per_class=5)
    with pytest.raises(DataError, match="fewer than 250 usable docstrings in yaml"):
        harvest(["yaml"])
