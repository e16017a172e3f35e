"""Promises of files that are there as a whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from stillhouse.whole_files import folder_made, write_text, written_whole


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_text(path, "old\n")
    with pytest.raises(ZeroDivisionError), written_whole(path) as aside:
        aside.write_text("half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old\n"
    write_text(path, "new\n")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("page.html", "new\n")]


def test_of_a_link_the_file_behind_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, there = tmp_path / "link", tmp_path / "there" / "page.html"
    link.symlink_to(there)
    for text in ("first", "second"):  # the file is made, then replaced
        write_text(link, text)
        assert link.is_symlink() and there.read_text() == text


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "through\n")
    reader.join(timeout=10)
    assert read == ["through\n"] and pipe.is_fifo()


def test_folders_that_were_made_go_again_unless_something_lies_there(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(ZeroDivisionError), folder_made(tmp_path / "old" / "new" / "newer"):
        assert (tmp_path / "old" / "new" / "newer").is_dir()
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    with pytest.raises(ZeroDivisionError), folder_made(tmp_path / "old" / "new"):
        (tmp_path / "old" / "other.txt").touch()
        (tmp_path / "old" / "new" / "kept.txt").touch()
        raise ZeroDivisionError
    with folder_made(tmp_path / "old"):
        pass
    assert {path.name for path in tmp_path.rglob("*")} == {"old", "new", "kept.txt", "other.txt"}
