"""How fast a growing cache of teacher answers is read and written: rows drawn at random, in fresh processes.

As a program, ``python -m benchmarks.cache_growth FOLDER FIRST LAST NUM_READS``: it puts the answers to the rows FIRST
to LAST into the store there, then asks for random ones of all rows so far, and prints what it measured as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from benchmarks import memory
from benchmarks.machine import REPOSITORY
from stillhouse.teachers import CachedTeacher, TeacherSource
from stillhouse.teachers.stores import LmdbStore
from stillhouse.types import Batch, Features, Key

LENGTH, WIDTH, BATCH_SIZE = 16, 256, 32
KEY = Key("hidden", 1)
ROW_BYTES = LENGTH * WIDTH * torch.float32.itemsize
"""A row's values; LMDB adds less than a page."""


def grow(folder: Path, sizes_bytes: list[int], num_reads: int) -> list[dict[str, Any]]:
    """One store that grows from size to size; each time what writing the new and reading random rows took."""
    found, first = [], 0
    for size in sizes_bytes:
        last = max(first + BATCH_SIZE, size // ROW_BYTES)
        command = [sys.executable, "-m", "benchmarks.cache_growth", str(folder), str(first), str(last), str(num_reads)]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True, text=True)
        found.append(json.loads(done.stdout))
        first = last
    return found


@final
class RowNumbers(TeacherSource):
    """Answers with values drawn from each row's number, at the price of a copy."""

    fingerprint = "row numbers"

    def __init__(self) -> None:
        self._values = torch.randn(1024, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
        self._rows = 0

    @property
    def rows_forwarded(self) -> int:
        return self._rows

    def check(self, keys: frozenset[Key]) -> None:
        """Anything goes."""

    def signals(self, batch: Batch, keys: frozenset[Key], extra: Mapping[str, Any] | None = None) -> Features:
        numbers = batch.teacher["input_ids"][:, 0]
        self._rows += len(numbers)
        return dict.fromkeys(keys, self._values[numbers % len(self._values)])


def _batch(numbers: np.ndarray[Any, Any]) -> Batch:
    """Rows whose tokens are all their own number."""
    ids = torch.from_numpy(numbers.astype(np.int64)).unsqueeze(1).expand(-1, LENGTH).contiguous()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(inputs, inputs)


def _measured(folder: Path, first: int, last: int, num_reads: int) -> dict[str, Any]:
    random, keys = np.random.RandomState(0), frozenset({KEY})
    with LmdbStore(folder) as store:
        teacher = CachedTeacher(RowNumbers(), store)
        order = first + random.permutation(last - first)
        started = time.perf_counter()
        for start in range(0, len(order), BATCH_SIZE):
            teacher.signals(_batch(order[start : start + BATCH_SIZE]), keys)
    written_s = time.perf_counter() - started  # with what was still on its way when the store was closed
    with LmdbStore(folder) as store:
        teacher = CachedTeacher(RowNumbers(), store)
        batches = [_batch(random.randint(0, last, BATCH_SIZE)) for _ in range(num_reads)]
        seconds = []
        for batch in batches:
            started = time.perf_counter()
            teacher.signals(batch, keys)
            seconds.append(time.perf_counter() - started)
        assert teacher.rows_forwarded == 0, "rows that were written are not found"
        size_bytes = store.size_bytes()
    return {
        "rows": last, "size_bytes": size_bytes, "written_rows_per_second": (last - first) / written_s,
        "read_ms_a_batch": 1000 * float(np.median(seconds)),
        "read_ms_a_batch_p99": 1000 * float(np.percentile(seconds, 99)),
        "read_rows_per_second": BATCH_SIZE / float(np.median(seconds)), "batch_size": BATCH_SIZE,
        "peak_rss_mb": memory.peak_mb(),
        "anonymous_mb": memory.anonymous_mb(),
    }



if __name__ == "__main__":
    print(json.dumps(_measured(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
