"""A store in a folder: memory-mapped, crash-safe, shared by processes."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, final

import lmdb

from stillhouse.cache_dirs import STORE_FILE
from stillhouse.errors import ConfigError, StoreError
from stillhouse.teachers.stores.base import Record, Result, SignalStore, check_keys

if sys.platform != "win32":
    import fcntl

DEFAULT_MAP_SIZE_BYTES = 1 << 30
_MIN_MAP_SIZE_BYTES = 1 << 16
_MAX_READERS = 512


@final
class LmdbStore(SignalStore):
    """Records in an LMDB environment of one folder, which is made if it is missing.

    ``map_size_bytes`` is the address space reserved at first, not disk: the map doubles whenever it is full. The folder
    must be writable and on a local disk (LMDB's locks do not work over network file systems).
    Raises `ConfigError` for a size below one, `StoreError` if the folder cannot be opened.
    """

    persistent: ClassVar[bool] = True

    def __init__(self, folder: str | Path, *, map_size_bytes: int = DEFAULT_MAP_SIZE_BYTES) -> None:
        if map_size_bytes < 1:
            raise ConfigError(f"map_size_bytes={map_size_bytes}: give at least 1; the map grows by itself")
        self._environment = _acquire(Path(folder).resolve(), map_size_bytes)
        self._release = weakref.finalize(self, _give_back, self._environment)

    def read(self, keys: Sequence[bytes], use: Callable[[list[Record | None]], Result]) -> Result:
        """The records where they lie in the map, in one transaction."""
        check_keys(keys)

        def read(env: lmdb.Environment) -> Result:
            with env.begin(buffers=True) as txn:
                return use([txn.get(key) for key in keys])

        return self._run(read)

    def put_many(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """One transaction, on disk when this returns. The map grows if it must."""
        # In key order LMDB touches each page of its tree once.
        records = sorted(dict(items).items())
        check_keys(key for key, _ in records)

        def put(env: lmdb.Environment) -> None:
            with env.begin(write=True) as txn:
                txn.cursor().putmulti(records)

        self._run(put, room_bytes=sum(len(key) + len(record) for key, record in records))

    def __len__(self) -> int:
        return self._run(lambda env: env.stat()["entries"])

    def size_bytes(self) -> int:
        """The pages in use; the file never shrinks, overwritten pages are used again."""
        return self._run(_used_bytes)

    def records_after(self, key: bytes, max_bytes: int) -> list[tuple[bytes, bytes]]:
        """Copies of the pairs that follow ``key`` (b"": from the first), until they take ``max_bytes``, at least one.

        Each call is a transaction of its own: one that stayed open would keep writers from using old pages again.
        """
        def read(env: lmdb.Environment) -> list[tuple[bytes, bytes]]:
            found: list[tuple[bytes, bytes]] = []
            taken = 0
            with env.begin() as txn, txn.cursor() as cursor:
                if not cursor.set_range(key):  # a cursor that is nowhere would begin with the first
                    return found
                for pair in cursor:
                    if pair[0] != key:
                        found.append(pair)
                        taken += len(pair[1])
                    if found and taken >= max_bytes:
                        break
            return found

        return self._run(read)

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """Remove records in one transaction; keys without one are passed over. The file keeps its size."""
        def delete(env: lmdb.Environment) -> None:
            with env.begin(write=True) as txn:
                for key in keys:
                    txn.delete(key)

        self._run(delete)

    def close(self) -> None:
        """The folder itself is closed with the last store that this process has open on it."""
        self._release()

    def _run(self, action: Callable[[lmdb.Environment], Result], room_bytes: int = 0) -> Result:
        if not self._release.alive:
            raise StoreError(f"the store in {self._environment.folder} is closed: open it again to use it")
        return self._environment.run(action, room_bytes)


class _Environment:
    """The one LMDB environment that this process has open on a folder, shared by its stores.

    Several threads may run transactions at once: a reader does not wait for a writer's disk. The environment is
    resized and shut while none runs.
    """

    def __init__(self, folder: Path, map_size_bytes: int) -> None:
        self.folder = folder
        self.num_users = 0
        self.num_running = 0
        self._map_size_bytes = _whole_pages(map_size_bytes)
        self._env: lmdb.Environment | None = None

    def run(self, action: Callable[[lmdb.Environment], Result], room_bytes: int = 0) -> Result:
        """Run one transaction, again after anything that can be mended. Raises `StoreError` for the rest.

        ``room_bytes`` is what the action is about to write, for the size of a map that must grow.
        """
        while True:
            try:
                return self._run_once(action)
            except (lmdb.MapFullError, lmdb.MapResizedError, lmdb.ReadersFullError) as hindrance:
                self._mend(hindrance, room_bytes)
            except (lmdb.Error, OSError) as error:
                # Some failures leave an environment that refuses everything; a fresh one is cheap.
                with _lock:
                    _wait_for_idle([self])
                    self.shut()
                raise _explained(error, self.folder) from error

    def _run_once(self, action: Callable[[lmdb.Environment], Result]) -> Result:
        with _lock:
            while _num_waiting:
                _changed.wait()
            if _environments.get(self.folder) is not self:
                raise StoreError(f"the store in {self.folder} was closed meanwhile: open it again to use it")
            env = self._opened()
            self.num_running += 1
        try:
            return action(env)
        finally:
            with _lock:
                self.num_running -= 1
                self.retire_if_unused()
                if _num_waiting and not self.num_running:
                    _changed.notify_all()

    def _mend(self, hindrance: lmdb.Error, room_bytes: int) -> None:
        """Remove what kept a transaction from running. Raises `StoreError` if that cannot be done."""
        with _lock:
            _wait_for_idle([self])
            try:
                if isinstance(hindrance, lmdb.ReadersFullError):
                    if not self._opened().reader_check():  # frees the places of processes that were killed
                        raise hindrance
                elif isinstance(hindrance, lmdb.MapResizedError):
                    self.shut()  # grown by another process: opened again, it has the new size
                else:
                    env = self._opened()
                    size_bytes = env.info()["map_size"]
                    grown_bytes = _whole_pages(size_bytes + max(size_bytes, 2 * room_bytes))
                    env.set_mapsize(grown_bytes)
                    self._map_size_bytes = grown_bytes
            except (lmdb.Error, OSError) as error:
                self.shut()
                raise _explained(error, self.folder) from error

    def retire_if_unused(self) -> None:
        """Close what no store uses any more; while a transaction runs, it is left to that one's end."""
        if not self.num_users and not self.num_running and _environments.get(self.folder) is self:
            del _environments[self.folder]
            self.shut()

    def shut(self) -> None:
        """Close the environment; the next `run` opens it again."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _opened(self) -> lmdb.Environment:
        if self._env is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(self.folder),
                map_size=self._map_size_bytes,
                metasync=False,
                max_readers=_MAX_READERS,
                # A kept reader would be shared with forked processes.
                max_spare_txns=0,
            )
            self._env.reader_check()
            _cover_cut_file(self._env, self.folder / STORE_FILE)
        return self._env


@contextmanager
def unopened(folder: str | Path) -> Iterator[bool]:
    """Whether no process has a store open in this folder; if so, none can open it inside. On Windows always True,
    where what is open cannot be moved or deleted anyway.
    """
    with _lock:
        if Path(folder).resolve() in _environments:
            yield False
        elif sys.platform == "win32":
            yield True
        else:
            with (Path(folder) / "lock.mdb").open("ab") as file:
                try:
                    # Whoever has the environment open holds a shared lock on this byte (see mdb_env_setup_locks).
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
                except OSError:
                    yield False
                else:
                    yield True


def _acquire(folder: Path, map_size_bytes: int) -> _Environment:
    with _lock:
        environment = _environments.get(folder)
        if environment is None:
            environment = _environments[folder] = _Environment(folder, map_size_bytes)
        environment.num_users += 1
    try:
        environment.run(_used_bytes)  # whatever is wrong with the folder shows here
    except BaseException:
        _give_back(environment)
        raise
    return environment


def _give_back(environment: _Environment) -> None:
    # Garbage collection may call this anywhere, also inside this thread's own transaction: it must not wait for one.
    with _lock:
        environment.num_users -= 1
        environment.retire_if_unused()


def _used_bytes(env: lmdb.Environment) -> int:
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def _cover_cut_file(env: lmdb.Environment, data_path: Path) -> None:
    """Fill up a data file that was cut off (an unfinished copy): reading past its end would kill the process.

    The zeros are then found by LMDB's or the record's own check, as errors.
    """
    if data_path.stat().st_size < _used_bytes(env):
        with env.begin(write=True):  # keeps other processes from writing meanwhile
            if data_path.stat().st_size < _used_bytes(env):
                os.truncate(data_path, _used_bytes(env))


def _explained(error: lmdb.Error | OSError, folder: Path) -> StoreError:
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        remedy = "it, or a part of its path, is a file: name a folder"
    elif isinstance(error, (lmdb.ReadonlyError, PermissionError)):
        remedy = "make the folder and its files writable, or name another folder"
    elif isinstance(error, (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)):
        remedy = "its files are damaged or not a store: delete the folder, and what it held will be computed again"
    elif isinstance(error, lmdb.MemoryError):
        remedy = "its map takes more address space than the process may have: raise that limit (ulimit -v)"
    elif isinstance(error, lmdb.ReadersFullError):
        remedy = f"{_MAX_READERS} processes are reading it: stop some, or give them another folder"
    else:
        remedy = f"{_free_space(folder)}: free some space, mend the disk, or name another folder"
    return StoreError(f"the store in {folder} cannot be used ({error}); {remedy}")


def _free_space(folder: Path) -> str:
    try:
        return f"its disk has {shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        return "its disk does not answer"


def _whole_pages(size_bytes: int) -> int:
    return -(-max(size_bytes, _MIN_MAP_SIZE_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE


# LMDB forbids to open an environment twice in one process, to resize a map that is being read and to use an environment
# after a fork. So a process has one environment per folder, forks only while no transaction runs, and closes the
# child's copies, which only unmaps them: locks and readers belong to the parent's process id.
_lock = threading.RLock()
_changed = threading.Condition(_lock)
_environments: dict[Path, _Environment] = {}
_num_waiting = 0  # threads that wait until no transaction runs; none begins meanwhile


def _wait_for_idle(environments: Iterable[_Environment]) -> None:
    """Return, under the lock, when no transaction of this process runs on these environments."""
    global _num_waiting
    _num_waiting += 1
    try:
        while any(environment.num_running for environment in environments):
            _changed.wait()
    finally:
        _num_waiting -= 1
        _changed.notify_all()


def _before_fork() -> None:
    _lock.acquire()
    _wait_for_idle(_environments.values())


def _after_fork_in_child() -> None:
    global _num_waiting
    _num_waiting = 0  # of threads that the child does not have
    for environment in _environments.values():
        environment.shut()
    _lock.release()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
