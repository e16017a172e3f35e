"""Promises of where things are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillhouse.cache_dirs import cache_dir, signals_dir, teachers_dir


def test_the_own_variable_wins_over_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("STILLHOUSE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert cache_dir() == tmp_path / "home" / ".cache" / "stillhouse"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "stillhouse"
    monkeypatch.setenv("STILLHOUSE_CACHE", "~/own")
    assert cache_dir() == tmp_path / "home" / "own"
    assert teachers_dir().parent == cache_dir()
    assert list(tmp_path.iterdir()) == []


def test_each_teacher_has_a_folder_of_its_own() -> None:
    one, other = signals_dir("weights a, bf16 / eager"), signals_dir("weights b")
    assert one != other and one == signals_dir("weights a, bf16 / eager") and one.parent == other.parent
