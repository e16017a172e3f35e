"""Stores keep what they were given, through dtypes, growth, crashes, forks and other processes."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
import torch

from stillhouse.errors import ConfigError, StoreError
from stillhouse.teachers import stores
from stillhouse.teachers.stores import LmdbStore, MemoryStore, SignalStore, decode, encode
from stillhouse.testing.stores import StoreSuite


class TestMemoryStore(StoreSuite):
    def make_store(self, tmp_path: Path) -> SignalStore:
        return MemoryStore()

    def reopen(self, store: SignalStore, tmp_path: Path) -> SignalStore:
        raise AssertionError("a store in memory is not persistent")


class TestLmdbStore(StoreSuite):
    def make_store(self, tmp_path: Path) -> SignalStore:
        return LmdbStore(tmp_path / "store")

    def reopen(self, store: SignalStore, tmp_path: Path) -> SignalStore:
        store.close()
        return LmdbStore(tmp_path / "store")


def run_script(script: str, *args: object) -> subprocess.Popen[str]:
    """A fresh interpreter running ``script`` with the arguments, its output captured."""
    command = [sys.executable, "-c", script, *map(str, args)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output_of(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


# LMDB: growth and sharing in one process


def test_the_map_grows_from_a_tiny_size(tmp_path: Path) -> None:
    with LmdbStore(tmp_path, map_size_bytes=1) as store:
        records = {bytes([i]) * 16: os.urandom(50_000) for i in range(40)}
        for item in records.items():
            store.put_many([item])
        store.put_many([(b"large", bytes(30_000_000))])
        assert store.get_many(list(records)) == list(records.values())
        assert store.size_bytes() > 32_000_000


def test_the_map_grows_under_readers(tmp_path: Path) -> None:
    with LmdbStore(tmp_path, map_size_bytes=1) as store:
        store.put_many([(b"read", b"me")])
        done = threading.Event()
        failures: list[object] = []

        def read() -> None:
            while not done.wait(0.0005):  # threads that never pause can keep a writer out for minutes
                try:
                    assert store.get_many([b"read"] * 50) == [b"me"] * 50
                except Exception as error:
                    failures.append(error)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for size in range(14):
                store.put_many([(bytes([size]), bytes(1 << (size + 10)))])
        finally:
            done.set()
            for reader in readers:
                reader.join()
    assert not failures


def test_a_folder_may_be_opened_twice_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    first, second = LmdbStore(tmp_path / "real"), LmdbStore(tmp_path / "link", map_size_bytes=1 << 16)
    first.put_many([(b"a", b"1")])
    assert second.get_many([b"a"]) == [b"1"]
    first.close()
    first.close()
    second.put_many([(b"b", b"2")])
    assert second.get_many([b"a", b"b"]) == [b"1", b"2"]
    second.close()
    with LmdbStore(tmp_path / "real") as third:
        assert len(third) == 2


def test_a_forgotten_store_gives_its_folder_back(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "first")
    store.put_many([(b"a", b"1")])
    del store
    gc.collect()
    shutil.move(tmp_path / "first", tmp_path / "second")
    with LmdbStore(tmp_path / "second") as moved, LmdbStore(tmp_path / "first") as fresh:
        assert moved.get_many([b"a"]) == [b"1"]
        assert len(fresh) == 0


def test_importing_the_stores_does_not_load_lmdb() -> None:
    script = "import sys, stillhouse.teachers.stores as s; assert 'lmdb' not in sys.modules; s.LmdbStore"
    output_of(run_script(script + "; assert 'lmdb' in sys.modules"))
    with pytest.raises(AttributeError, match="RedisStore"):
        _ = stores.RedisStore


# LMDB: other processes, crashes and forks

WRITER = """
import sys
from stillhouse.teachers.stores import LmdbStore, encode
import torch
folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = LmdbStore(folder, map_size_bytes=1 << 16)
for step in range(count):
    records = [(f"{name} {step} {row}".encode(), encode([torch.full((999,), float(step)), torch.tensor(row)]))
               for row in range(20)]
    store.put_many(records)
    print(step, flush=True)
"""


def check_batch(store: SignalStore, name: str, step: int) -> bool:
    """Whether a batch of `WRITER` is there; it must be whole and right, or missing altogether."""
    found = store.get_many([f"{name} {step} {row}".encode() for row in range(20)])
    if found == [None] * 20:
        return False
    for row, record in enumerate(found):
        assert record is not None
        values, index = decode(record)
        assert values.equal(torch.full((999,), float(step))) and index.item() == row
    return True


def test_killing_a_writer_leaves_whole_batches_only(tmp_path: Path) -> None:
    for name, kill_at in (("first", 20), ("second", 50)):
        with run_script(WRITER, tmp_path, name, 1_000_000) as process:
            assert process.stdout is not None
            finished = []
            for line in process.stdout:
                finished.append(int(line))
                if len(finished) == 1:
                    start_s = time.perf_counter()
                if len(finished) == kill_at:
                    time.sleep((time.perf_counter() - start_s) / (kill_at - 1) / 2)  # half-way through the next one
                    process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        with LmdbStore(tmp_path) as store:
            assert all(check_batch(store, name, step) for step in finished), "a put that had returned is lost"
            check_batch(store, name, len(finished))  # the one that was cut short, if any
            assert not check_batch(store, name, len(finished) + 1)
            store.put_many([(b"still", b"writable")])
            assert store.get_many([b"still"]) == [b"writable"]


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    with LmdbStore(tmp_path, map_size_bytes=1 << 16) as store:
        processes = [run_script(WRITER, tmp_path, name, 40) for name in ("first", "second")]
        for step in range(40):
            store.put_many([(f"third {step}".encode(), bytes(9000))])
        for process in processes:
            output_of(process)
        for name in ("first", "second"):
            assert all(check_batch(store, name, step) for step in range(40))
        assert len(store) == 2 * 40 * 20 + 40


FORKS = """
import os, sys, threading
from stillhouse.teachers.stores import LmdbStore
store = LmdbStore(sys.argv[1], map_size_bytes=1 << 16)
stop = threading.Event()
def hammer():
    step = 0
    while not stop.is_set():
        store.put_many([(b"hammer", str(step).encode() * 2000)])
        store.get_many([b"hammer"])
        step += 1
thread = threading.Thread(target=hammer)
thread.start()
children = []
for child in range(12):
    pid = os.fork()
    if pid == 0:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")] if sys.platform == "linux" else []
        held = [os.readlink(link) for link in links if os.path.lexists(link)]
        if any(path.endswith(".mdb") for path in held):
            os._exit(2)  # the parent's environment is still open
        store.put_many([(f"child {child}".encode(), bytes(20_000))])
        with LmdbStore(sys.argv[1]) as again:
            good = again.get_many([f"child {child}".encode()]) == [bytes(20_000)]
        os._exit(0 if good and store.get_many([b"hammer"]) else 1)
    children.append(pid)
    store.put_many([(f"parent {child}".encode(), b"1")])
codes = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
thread.join()
assert codes == [0] * 12, codes
kept = store.get_many([f"{who} {i}".encode() for who in ("child", "parent") for i in range(12)])
print(sum(value is not None for value in kept))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_an_inherited_store_works_after_a_fork(tmp_path: Path) -> None:
    assert output_of(run_script(FORKS, tmp_path)).strip() == "24"


def test_a_map_that_grows_while_it_is_opened_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = lmdb.open, [lmdb.MapResizedError("another process has grown it")]

    def open_late(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(lmdb, "open", open_late)
    with LmdbStore(tmp_path) as store:
        store.put_many([(b"a", b"1")])
        assert store.get_many([b"a"]) == [b"1"] and not failures


# LMDB: what cannot be used

FULL_DISK = """
import resource, sys
from stillhouse.errors import StoreError
from stillhouse.teachers.stores import LmdbStore
store = LmdbStore(sys.argv[1])
store.put_many([(b"a", b"1")])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    store.put_many([(b"a", b"2"), (b"b", bytes(1 << 22))])
except StoreError as error:
    print(error)
assert store.get_many([b"a", b"b"]) == [b"1", None]
store.put_many([(b"c", b"3")])
assert store.get_many([b"c"]) == [b"3"]
"""

READ_ONLY = """
import os, sys
from stillhouse.errors import StoreError
from stillhouse.teachers.stores import LmdbStore
LmdbStore  # loaded before the rights are given up
if os.geteuid() == 0:
    os.setuid(65534)
try:
    LmdbStore(sys.argv[1])
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
def test_a_full_disk_is_reported_and_harms_nothing(tmp_path: Path) -> None:
    assert "bytes free: free some space" in output_of(run_script(FULL_DISK, tmp_path))


NO_ADDRESSES = """
import resource, sys
from pathlib import Path
from stillhouse.errors import StoreError
from stillhouse.teachers.stores import LmdbStore
store = LmdbStore(sys.argv[1], map_size_bytes=1)
store.put_many([(b"a", b"1")])
large = bytes(100_000_000)
used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used_bytes + 50_000_000, resource.RLIM_INFINITY))
try:
    store.put_many([(b"a", b"2"), (b"b", large)])
except StoreError as error:
    print(error)
store.put_many([(b"c", b"3")])
assert store.get_many([b"a", b"b", b"c"]) == [b"1", None, b"3"]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_map_that_cannot_grow_is_reported_and_harms_nothing(tmp_path: Path) -> None:
    assert "ulimit" in output_of(run_script(NO_ADDRESSES, tmp_path))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name) / "store"


@pytest.mark.skipif(sys.platform == "win32", reason="no users")
def test_a_read_only_folder_is_refused_with_the_remedy(public_folder: Path) -> None:
    with LmdbStore(public_folder) as store:
        store.put_many([(b"a", b"1")])
    for path in (*public_folder.iterdir(), public_folder):
        path.chmod(0o444 if path.is_file() else 0o555)
    output = output_of(run_script(READ_ONLY, public_folder))
    public_folder.chmod(0o755)
    assert "make the folder and its files writable" in output


def test_a_file_in_the_way_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="name a folder"):
            LmdbStore(folder)
    with pytest.raises(ConfigError, match="map_size_bytes=0"):
        LmdbStore(tmp_path, map_size_bytes=0)


def test_files_of_something_else_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(os.urandom(20_000))
    with pytest.raises(StoreError, match="delete the folder"):
        LmdbStore(tmp_path)
    (tmp_path / "data.mdb").unlink()
    with LmdbStore(tmp_path) as store:
        assert len(store) == 0


READ_CUT = """
import sys
from stillhouse.errors import StoreError
from stillhouse.teachers.stores import LmdbStore, decode
for folder in sys.argv[1:]:
    good = 0
    try:
        with LmdbStore(folder) as store:
            for row in range(100):
                try:
                    (record,) = store.get_many([f"{row:04}".encode() * 4])
                    if record is not None:
                        assert decode(record)[0].eq(row).all(), "a wrong record passed for a right one"
                        good += 1
                except StoreError:
                    pass
    except StoreError:
        pass
    print(good)
"""


def test_a_cut_off_file_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    folders = [tmp_path / str(percent) for percent in (2, 30, 60, 95)]
    for folder in folders:
        with LmdbStore(folder) as store:
            for row in range(100):
                store.put_many([(f"{row:04}".encode() * 4, encode([torch.full((3000,), row)]))])
        data_path = folder / "data.mdb"
        os.truncate(data_path, data_path.stat().st_size * int(folder.name) // 100)
    num_good = [int(line) for line in output_of(run_script(READ_CUT, *folders)).split()]
    assert len(num_good) == 4 and max(num_good) < 100
