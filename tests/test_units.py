"""Promises of bytes and times as people write them."""

from __future__ import annotations

import re

import pytest

from stillhouse.errors import ConfigError
from stillhouse.units import parse_age, parse_bytes, readable_age, readable_bytes


def test_bytes_are_readable() -> None:
    found = [readable_bytes(count) for count in (7, 1500, 2e6, 3.21e9, 4e13)]
    assert found == ["7 bytes", "1.5 kB", "2.0 MB", "3.2 GB", "40.0 TB"]


def test_bytes_are_read_as_people_write_them() -> None:
    texts = ("20 GB", "20gb", " 1.5 TB ", ".5kB", "0", "12 bytes", "1 byte", "7B")
    assert [parse_bytes(text) for text in texts] == [20 * 10**9, 20 * 10**9, 15 * 10**11, 500, 0, 12, 1, 7]


@pytest.mark.parametrize("text", ["20", "GB", "20 GiB", "-1 GB", "1e9 GB", "twenty GB", "", "20 GB 3"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(text)) + ".*as in 20 GB"):
        parse_bytes(text)


def test_times_are_read_and_said() -> None:
    assert [parse_age(text) for text in ("90m", "12h", "30d", "2 w", "1.5D")] == [
        90 * 60, 12 * 3600, 30 * 86400, 14 * 86400, 1.5 * 86400]
    assert [readable_age(seconds) for seconds in (-5, 59, 60, 7300, 86400, 40 * 86400)] == [
        "just now", "just now", "1 minute ago", "2 hours ago", "1 day ago", "40 days ago"]


@pytest.mark.parametrize("text", ["30", "d", "30 s", "-1d", "1y", ""])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(text)) + ".*as in 30d"):
        parse_age(text)
