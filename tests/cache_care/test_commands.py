"""Promises of ``stillhouse cache``: it tells what is there, finds damage, and deletes nothing that is in use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from stillhouse import cli
from stillhouse.cache_dirs import given_dir, signals_dir, teachers_dir
from stillhouse.cache_use import note_use
from stillhouse.teachers.stores import LmdbStore, encode
from stillhouse.units import readable_bytes

PAGE = Path(__file__).parents[2] / "docs" / "cache.md"
DAY_S = 24 * 3600
NUM_RECORDS = 40
BERT = {"teacher": "bert, fine-tuned", "task": "sorting", "dtype": "float32"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_store(folder: Path, about: dict[str, str] | None = None, days_ago: float = 0, num_values: int = 8) -> Path:
    """A store of records, used last so many days ago."""
    with LmdbStore(folder) as store:
        store.put_many([(key_of(row), encode([torch.full((num_values,), row)])) for row in range(NUM_RECORDS)])
    if about is not None:
        note_use(folder, about)
    return aged(folder, days_ago)


def key_of(row: int) -> bytes:
    return f"{row:04}".encode() * 4


def make_teacher(name: str, days_ago: float = 0) -> Path:
    folder = teachers_dir() / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(5000))
    (folder / "teacher.json").write_text(json.dumps(
        {"about": {"teacher": "bert", "task": "sorting"}, "metrics": {"accuracy": 0.91234}}))
    return aged(folder, days_ago)


def aged(folder: Path, days_ago: float) -> Path:
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - days_ago * DAY_S,) * 2)
    return folder


def damage(folder: Path, *rows: int) -> None:
    """Change a byte of records behind the back of whoever wrote them."""
    with LmdbStore(folder) as store:
        records = [bytearray(encode([torch.full((8,), row)])) for row in rows]
        for record in records:
            record[-1] ^= 1
        store.put_many([(key_of(row), bytes(record)) for row, record in zip(rows, records, strict=True)])


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


OPEN = {
    "answers": "from stillhouse.teachers.stores import LmdbStore; it = LmdbStore(sys.argv[1])",
    "teacher": "from stillhouse.cache_use import hold; hold(Path(sys.argv[1]) / 'teacher.json')",
}


@contextmanager
def opened_by_another_process(kind: str, folder: Path) -> Iterator[None]:
    program = f"import sys; from pathlib import Path; {OPEN[kind]}; print('open', flush=True); sys.stdin.readline()"
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        yield
    finally:
        process.communicate("\n")


def test_info_tells_what_is_there_and_when_it_was_used(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(signals_dir("one"), BERT, days_ago=3)
    unknown = make_store(signals_dir("other"), days_ago=1.1)
    teacher = make_teacher("t", days_ago=40)
    assert cli.main(["cache", "info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (answers,) = [line for line in lines if store.name in line]
    assert re.search(rf"^answers +{NUM_RECORDS} +{readable_bytes(size_of(store))} +3 days ago +signals/{store.name} +"
                     "bert, fine-tuned, sorting, float32$", answers)
    assert any(f"signals/{unknown.name}" in line and "1 day ago" in line and "not noted" in line for line in lines)
    assert any(re.search(r"^teacher .* 40 days ago +teachers/t +bert, sorting, accuracy 0.9123$", line)
               for line in lines)
    total = readable_bytes(sum(map(size_of, (store, unknown, teacher))))
    assert re.fullmatch(rf"3 folders, {total}; .* free on this disk", lines[-1]) and str(own_cache) in lines[0]


def test_info_as_json_is_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(signals_dir("one"), BERT, days_ago=3)
    make_teacher("t")
    assert cli.main(["cache", "info", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    (answers,) = [item for item in values["items"] if item["kind"] == "answers"]
    assert answers["records"] == NUM_RECORDS and answers["folder"] == str(store) and answers["problem"] is None
    assert answers["about"] == ["bert, fine-tuned, sorting, float32"] and answers["size_bytes"] == size_of(store)
    assert values["size_bytes"] == sum(item["size_bytes"] for item in values["items"]) and values["free_bytes"] > 0


def test_an_empty_cache_has_nothing_to_tell_and_is_not_made(
    own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["info"], ["verify"], ["prune", "--max-size", "0"]):
        assert cli.main(["cache", *command]) == 0
    assert "0 folders, 0 bytes" in capsys.readouterr().out and not own_cache.exists()


def test_a_single_store_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "answers", BERT)
    make_teacher("t")
    assert cli.main(["cache", "info", str(store)]) == 0
    said = capsys.readouterr().out
    assert "1 folder," in said and "bert, fine-tuned" in said and "teacher " not in said.splitlines()[2]
    assert cli.main(["cache", "info", str(tmp_path)]) == 2
    assert "is no cache" in capsys.readouterr().err


def test_a_damaged_store_is_told_and_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    make_store(signals_dir("good"), BERT)
    bad = signals_dir("bad")
    bad.mkdir(parents=True)
    (bad / "data.mdb").write_bytes(bytes(range(256)) * 80)
    assert cli.main(["cache", "info"]) == 0
    said = capsys.readouterr()
    assert "damaged" in said.out and f" {NUM_RECORDS} " in said.out and "delete the folder" in said.err
    assert cli.main(["cache", "verify"]) == 1
    said = capsys.readouterr()
    assert "delete the folder" in said.out and f"{NUM_RECORDS} records, 0 damaged" in said.out


def test_verify_finds_what_is_damaged_and_deletes_only_that(capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = make_store(signals_dir("whole")), make_store(signals_dir("broken"))
    assert cli.main(["cache", "verify"]) == 0
    assert capsys.readouterr().out.count(f"{NUM_RECORDS} records, 0 damaged\n") == 2
    damage(broken, 0, 7, NUM_RECORDS - 1)
    assert cli.main(["cache", "verify"]) == 1
    said = capsys.readouterr()
    assert f"signals/{broken.name}: {NUM_RECORDS} records, 3 damaged\n" in said.out and "--delete" in said.err
    assert f"signals/{whole.name}: {NUM_RECORDS} records, 0 damaged\n" in said.out
    assert cli.main(["cache", "verify", str(broken), "--delete"]) == 1
    assert f"{NUM_RECORDS} records, 3 damaged, 3 deleted\n" in capsys.readouterr().out
    assert cli.main(["cache", "verify", str(broken)]) == 0
    with LmdbStore(broken) as store:
        kept = store.get_many([key_of(row) for row in range(NUM_RECORDS)])
    assert [row for row, record in enumerate(kept) if record is None] == [0, 7, NUM_RECORDS - 1]


def test_verify_reads_a_store_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillhouse.cache_care import checking
    from stillhouse.cache_care.items import items_in

    _, (item,) = items_in(make_store(tmp_path / "answers", num_values=100))
    damage(item.folder, 5)
    pieces = []
    read = LmdbStore.records_after

    def watched(self: LmdbStore, key: bytes, max_bytes: int) -> list[tuple[bytes, bytes]]:
        pieces.append(read(self, key, max_bytes))
        return pieces[-1]

    monkeypatch.setattr(LmdbStore, "records_after", watched)
    monkeypatch.setattr(checking, "_AT_A_TIME_BYTES", 3000)
    finding = checking.check(item)
    assert (finding.num_records, finding.num_damaged, finding.num_deleted) == (NUM_RECORDS, 1, 0)
    assert [key for piece in pieces for key, _ in piece] == [key_of(row) for row in range(NUM_RECORDS)]
    assert 1 < max(map(len, pieces)) < 12


def test_prune_deletes_what_is_old_and_then_the_least_recently_used(capsys: pytest.CaptureFixture[str]) -> None:
    old, middle, new = (make_store(signals_dir(str(days)), BERT, days_ago=days) for days in (40, 20, 1))
    teacher = make_teacher("t", days_ago=50)
    command = ["cache", "prune", "--yes", "--older-than"]
    assert cli.main([*command, "60d"]) == 0
    assert "nothing to delete: 4 folders" in capsys.readouterr().out
    assert cli.main([*command, "45d", "--dry-run"]) == 0
    assert "would be deleted: 1 folder" in capsys.readouterr().out and teacher.exists()
    assert cli.main([*command, "45d"]) == 0
    assert not teacher.exists() and old.exists()
    fits_two = size_of(middle) + size_of(new)
    assert cli.main(["cache", "prune", "--yes", "--max-size", f"{fits_two} bytes"]) == 0
    assert not old.exists() and middle.exists() and new.exists()
    assert cli.main(["cache", "prune", "--yes", "--max-size", f"{fits_two - 1} bytes", "--older-than", "30d"]) == 0
    assert not middle.exists() and new.exists()
    assert cli.main(["cache", "prune", "--yes", "--max-size", "0"]) == 0
    assert list(new.parent.iterdir()) == [] == list(teacher.parent.iterdir())


def test_what_was_given_as_an_object_is_told_and_goes_when_it_is_old(capsys: pytest.CaptureFixture[str]) -> None:
    data, models = given_dir() / "data", given_dir() / "models"
    model = models / "Bert-1f"
    for folder in (data, model):
        folder.mkdir(parents=True)
    (data / "ab.parquet").write_bytes(bytes(3000))
    (data / ".writing-cd.parquet").write_bytes(bytes(10))
    (model / "model.safetensors").write_bytes(bytes(7000))
    assert cli.main(["cache", "info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(item["kind"], item["size_bytes"]) for item in told["items"]] == [
        ("given", 7000), ("given", 3000), ("leftover", 10)]
    for path in (data / "ab.parquet", data / ".writing-cd.parquet"):
        os.utime(path, (time.time() - 3 * DAY_S,) * 2)
    assert cli.main(["cache", "prune", "--older-than", "2d", "--yes"]) == 0
    assert list(data.iterdir()) == [] and (model / "model.safetensors").is_file()


def test_prune_asks_first() -> None:
    store = make_store(signals_dir("one"), BERT, days_ago=40)
    arguments = ["cache", "prune", "--older-than", "30d"]
    refused = CliRunner().invoke(cli.app, arguments, input="n\n")
    assert refused.exit_code == 1 and store.exists() and "bert, fine-tuned" in refused.output
    agreed = CliRunner().invoke(cli.app, arguments, input="y\n")
    assert agreed.exit_code == 0 and not store.exists() and "deleted 1 folder" in agreed.output


@pytest.mark.parametrize("arguments", [[], ["--older-than", "soon"], ["--max-size", "20"]])
def test_prune_refuses_what_says_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(signals_dir("one"), BERT, days_ago=40)
    assert cli.main(["cache", "prune", "--yes", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: " + (arguments[0] if arguments else "say what may go")) and store.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="what is open there cannot be deleted anyway")
@pytest.mark.parametrize("kind", ["answers", "teacher"])
def test_prune_never_deletes_what_another_process_has_open(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_store(signals_dir("one"), BERT) if kind == "answers" else make_teacher("t")
    with opened_by_another_process(kind, folder):
        before = sorted(folder.iterdir())
        assert cli.main(["cache", "prune", "--max-size", "0", "--yes"]) == 0
        assert sorted(folder.iterdir()) == before
        assert "a running process has it open" in capsys.readouterr().out
    assert cli.main(["cache", "prune", "--max-size", "0", "--yes"]) == 0
    assert not folder.exists() and list(folder.parent.iterdir()) == []


def test_prune_never_deletes_what_this_process_has_open() -> None:
    folder = make_store(signals_dir("one"), BERT, days_ago=40)
    with LmdbStore(folder) as store:
        assert cli.main(["cache", "prune", "--max-size", "0", "--yes"]) == 0
        assert folder.exists() and len(store) == NUM_RECORDS
    assert cli.main(["cache", "prune", "--max-size", "0", "--yes"]) == 0
    assert not folder.exists()


def test_what_a_killed_process_left_goes_a_day_later(capsys: pytest.CaptureFixture[str]) -> None:
    make_teacher("t")
    left = [aged(make_teacher(name), days) for name, days in ((".writing-1", 1.1), (".pruned-2", 2), (".writing-3", 0))]
    assert cli.main(["cache", "info"]) == 0
    assert capsys.readouterr().out.count("\nleftover ") == 3
    assert cli.main(["cache", "prune", "--older-than", "30d", "--yes"]) == 0
    assert [folder.exists() for folder in left] == [False, False, True] and (teachers_dir() / "t").exists()


def test_the_commands_of_the_page_run(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "answers", BERT)
    lines = [line.partition("#")[0].split()[1:] for block in
             re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
             for line in block.splitlines() if line.startswith("stillhouse cache")]
    assert {line[1] for line in lines} == {"info", "verify", "prune"}
    for line in lines:
        assert cli.main([*line, "--yes"] if line[1] == "prune" else line) == 0, line
    assert not capsys.readouterr().err
