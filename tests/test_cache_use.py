"""Promises of the notes beside what is cached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.cache_use import hold, last_use_s, note_use, notes, unheld

LONG_AGO_S = 1_000_000_000.0


def test_each_use_is_noted_once_and_the_last_comes_first(tmp_path: Path) -> None:
    (tmp_path / "content").touch()
    os.utime(tmp_path / "content", (LONG_AGO_S, LONG_AGO_S))
    assert notes(tmp_path) == [] and last_use_s(tmp_path, tmp_path / "content") == LONG_AGO_S
    one, other = {"teacher": "bert", "dtype": "float32"}, {"dtype": "bfloat16", "teacher": "bert"}
    note_use(tmp_path, one)
    note_use(tmp_path, other)
    for number, path in enumerate(sorted(tmp_path.glob("about-*"), key=lambda path: "bfloat16" in path.read_text())):
        os.utime(path, (LONG_AGO_S + number, LONG_AGO_S + number))
    assert notes(tmp_path) == [other, one] and last_use_s(tmp_path, tmp_path / "content") == LONG_AGO_S + 1
    note_use(tmp_path, one)
    assert notes(tmp_path) == [one, other] and last_use_s(tmp_path, tmp_path / "content") > LONG_AGO_S + 1
    assert len(list(tmp_path.iterdir())) == 3


def test_a_note_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "about-1.json").write_text("{")
    (tmp_path / "about-2.json").write_text("[1]")
    note_use(tmp_path, {"teacher": "bert"})
    assert notes(tmp_path) == [{"teacher": "bert"}]


def test_a_use_that_cannot_be_noted_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="prune"):
        note_use(tmp_path / "missing", {"teacher": "bert"})


HOLDING = """
import sys
from pathlib import Path
from stillhouse.cache_use import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is known there")
def test_what_a_process_holds_is_held_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.touch()
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    with unheld(path) as is_free:
        assert is_free
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(path)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with unheld(path) as is_free:
        assert not is_free
    process.kill()
    process.communicate()
    with unheld(path) as is_free:
        assert is_free
    assert path.stat().st_mtime > LONG_AGO_S


def test_what_is_not_there_is_held_without_complaint(tmp_path: Path) -> None:
    hold(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
