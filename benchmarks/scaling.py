"""What happens as things grow: the data, the batch, the cache, and from one process to two.

Rows a second and peak memory (resident set) of our own runs of a small teacher and student, each in a fresh process,
in turns; every contender trains as many steps, so that what grows with the data alone shows. The cache is a store of
rows of 16 kB, of which random batches of 32 are read.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import cache_growth, results
from benchmarks.machine import REPOSITORY
from benchmarks.setting import QUICK, Job, Setting, Shape, data_dir, made_up_rows, read_rows
from benchmarks.texts import varied
from benchmarks.turns import Contender, take_turns

SMALL = Setting(Shape(4, 256, 4, 1024), Shape(2, 128, 2, 512), ((0, 0), (2, 1), (4, 2)))
NUM_VALIDATION = 64
PARTS = ("rows", "batch", "ranks", "cache")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = results.parser("scaling", __doc__)
    made.add_argument("--turns", type=int, help="how many turns each contender has (5; quick: 1)")
    made.add_argument("--steps", type=int, help="optimizer steps in a turn (10; quick: 2)")
    made.add_argument("--only", action="append", choices=PARTS, help="a part to run; repeat for several")
    made.add_argument("--cache-gb", type=float, help="the size of the largest cache in GB (2; quick: 0.01)")
    made.add_argument("--folder", type=Path, help="where models, data and caches go for a while (a temporary folder)")
    return made


def main(argv: Sequence[str]) -> None:
    """Measure, write the JSON after every part, and print the tables."""
    options = parser().parse_args(argv)
    results.fill(options, usual={"turns": 5, "steps": 10, "cache_gb": 2.0},
                 quick={"turns": 1, "steps": 2, "cache_gb": 0.01})
    settings = {**(QUICK if options.quick else SMALL).as_dict(), "turns": options.turns,
                "steps_per_turn": options.steps, "cache_gb": options.cache_gb}
    measure = {"rows": _rows, "batch": _batch, "ranks": _ranks, "cache": _cache}
    figures: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-scaling-", dir=options.folder))
    try:
        for part in options.only or PARTS:
            figures[part] = measure[part](options, folder / part)
            results.write("scaling", options, settings, figures)
            print(f"\n{table(part, figures[part])}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(part: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A part's figures as text."""
    if part == "cache":
        return results.text_table(
            ("cache, MB", "rows", "written rows/s", "read rows/s", "read ms", "99 %", "peak MB", "without files"),
            [(f"{row['size_bytes'] / 1e6:.0f}", row["rows"], f"{row['written_rows_per_second']:.0f}",
              f"{row['read_rows_per_second']:.0f}", f"{row['read_ms_a_batch']:.2f}",
              f"{row['read_ms_a_batch_p99']:.2f}", row["peak_rss_mb"], row["anonymous_mb"]) for row in rows])
    return results.text_table((part, "rows/s", "low", "high", "peak MB"),
                              [(row["name"], *(f"{row[of]:.1f}" for of in ("median", "low", "high")),
                                row["peak_rss_mb"]) for row in rows])


def _rows(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The same steps of ever longer epochs."""
    setting = QUICK if options.quick else SMALL
    counts = (100, 1_000) if options.quick else (2_000, 20_000, 200_000)
    return _trained(options, folder, {
        f"{count:,} rows": (_job(options, setting, folder / str(count), count), _alone) for count in counts})


def _batch(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Ever larger batches of the same rows."""
    setting, sizes = (QUICK, (4, 8)) if options.quick else (SMALL, (8, 16, 32, 64, 128))
    steps = _steps(options)
    return _trained(options, folder, {
        f"{size} rows a batch": (_job(options, dataclasses.replace(setting, batch_size=size), folder / str(size),
                                      steps * sizes[-1]), _alone) for size in sizes})


def _ranks(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One process, and two with half of its batch and half of its threads each."""
    setting = QUICK if options.quick else dataclasses.replace(SMALL, batch_size=64)
    half = dataclasses.replace(setting, batch_size=setting.batch_size // 2)
    rows, threads = _steps(options) * setting.batch_size, max(1, (os.cpu_count() or 2) // 2)
    return _trained(options, folder, {
        "one process": (_job(options, setting, folder / "one", rows), _alone),
        "two processes": (_job(options, half, folder / "two", rows), lambda name, job: _Pair(name, job, threads))})


def _cache(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    largest = int(options.cache_gb * 1e9)
    return cache_growth.grow(folder, [largest // 100, largest // 10, largest], 20 if options.quick else 300)


Starter = Callable[[str, Job], "_Alone | _Pair"]


def _trained(options: argparse.Namespace, folder: Path,
             contenders: Mapping[str, tuple[Job, Starter]]) -> list[dict[str, Any]]:
    """Each contender's rows a second and peak memory."""
    started = {name: start(name, job) for name, (job, start) in contenders.items()}
    seconds = take_turns(list(started.values()), options.turns, folder)
    found = []
    for name, (job, _) in contenders.items():
        contender = started[name]
        rows = job.turn_steps * job.setting.batch_size * contender.num_processes
        speeds = [rows / value for value in seconds[name]]
        found.append({"name": name, **results.spread(speeds), "rows_per_second": speeds,
                      "peak_rss_mb": contender.peak_rss_mb})
    return found


def _steps(options: argparse.Namespace) -> int:
    """What a contender trains in all, with its warm-up."""
    return int(options.steps * (options.turns + 1))


def _job(options: argparse.Namespace, setting: Setting, folder: Path, num_rows: int) -> Job:
    """A folder with so many rows (a whole number of turns of them), of which only the first turns are trained on."""
    job = Job(folder, setting, warmup_steps=options.steps, turn_steps=options.steps, num_turns=options.turns)
    turns = max(options.turns, round(num_rows / setting.batch_size / options.steps) - 1)
    job = dataclasses.replace(job, num_turns=turns)
    wanted = job.num_rows + NUM_VALIDATION
    job.write(made_up_rows(wanted) if options.quick else
              varied(read_rows(data_dir(options.data) / "train.jsonl.gz"), wanted), made_up=options.quick)
    return job


@dataclasses.dataclass
class _Alone(Contender):
    """A run in one process."""

    num_processes: int = 1


def _command(job: Job) -> list[str]:
    return [sys.executable, "-m", "benchmarks.contenders.ours", str(job.folder), "live"]


def _environment(job: Job) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "STILLHOUSE_CACHE": str(job.folder / "cache"), "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false"}


def _alone(name: str, job: Job) -> _Alone:
    return _Alone(name, _command(job), _environment(job))


class _Pair:
    """A run of two processes that talk over gloo, as one contender; its memory is that of both."""

    num_processes = 2

    def __init__(self, name: str, job: Job, threads: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2",
                  "OMP_NUM_THREADS": str(threads)}
        self.name = name
        self._ranks = [Contender(f"{name} {rank}", _command(job), {**_environment(job), **shared, "RANK": str(rank),
                                                                   "LOCAL_RANK": str(rank)}) for rank in range(2)]
        self._pool = ThreadPoolExecutor(2)

    @property
    def peak_rss_mb(self) -> int:
        """The sum of both."""
        return sum(rank.peak_rss_mb for rank in self._ranks)

    def start(self, log_dir: Path) -> None:
        """Start both, until both have warmed up."""
        list(self._pool.map(lambda rank: rank.start(log_dir), self._ranks))

    def turn(self) -> float:
        """One turn of both; the seconds of the slower one."""
        return max(list(self._pool.map(Contender.turn, self._ranks)))

    def stop(self) -> None:
        """End both."""
        list(self._pool.map(Contender.stop, self._ranks))
        self._pool.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
