"""Rows per second of our runs, of the original, of a minimal loop and of ``transformers.Trainer``, in turns.

Every contender goes once through the same rows (the variants of later epochs do so a second time; their first epoch,
which fills the cache, is part of setting up). A turn is a stretch of that epoch. A ratio is the median over turns of
what both did in the same turn; "of totals" is that of all turns together, which is that of the whole epoch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results, textbrewer_environment
from benchmarks.machine import REPOSITORY
from benchmarks.setting import FULL, QUICK, Job, data_dir, made_up_rows, read_rows
from benchmarks.turns import Contender, take_turns

NUM_VALIDATION = 64

Seconds = Mapping[str, float]

CONTENDERS = {
    "original": ("original", ""),
    "trainer, as blogs": ("trainer", "blog"),
    "trainer, tuned": ("trainer", "tuned"),
    "minimal loop": ("minimal", ""),
    "ours, live teacher": ("ours", "live"),
    "ours, live teacher, all word embeddings": ("ours", "live-all-rows"),
    "ours, first epoch": ("ours", "first-epoch"),
    "ours, later epochs": ("ours", "later-epochs"),
    "ours, second student": ("ours", "second-student"),  # after the one whose cache it reads
    "ours, later epochs, logits only": ("ours", "later-logits"),
    "student alone on labels": ("ours", "labels"),
}


def _ten_epochs(other: str) -> Callable[[Seconds], float]:
    return lambda turn: 10 * turn[other] / (turn["ours, first epoch"] + 9 * turn["ours, later epochs"])


def _times_as_fast(mine: str, other: str) -> Callable[[Seconds], float]:
    return lambda turn: turn[other] / turn[mine]


RATIOS: Mapping[str, tuple[tuple[str, ...], Callable[[Seconds], float]]] = {
    name: (needs, ratio) for name, needs, ratio in (
        ("first epoch / original", ("ours, first epoch", "original"), _times_as_fast("ours, first epoch", "original")),
        ("later epochs / original", ("ours, later epochs", "original"),
         _times_as_fast("ours, later epochs", "original")),
        ("ten epochs / original", ("ours, first epoch", "ours, later epochs", "original"), _ten_epochs("original")),
        ("second student / original", ("ours, second student", "original"),
         _times_as_fast("ours, second student", "original")),
        ("live teacher / original", ("ours, live teacher", "original"),
         _times_as_fast("ours, live teacher", "original")),
        ("live teacher / minimal loop", ("ours, live teacher, all word embeddings", "minimal loop"),
         _times_as_fast("ours, live teacher, all word embeddings", "minimal loop")),
        ("labels / original", ("student alone on labels", "original"),
         _times_as_fast("student alone on labels", "original")),
        ("ten epochs / trainer, as blogs", ("ours, first epoch", "ours, later epochs", "trainer, as blogs"),
         _ten_epochs("trainer, as blogs")),
        ("ten epochs / trainer, tuned", ("ours, first epoch", "ours, later epochs", "trainer, tuned"),
         _ten_epochs("trainer, tuned")),
        ("later epochs / labels", ("ours, later epochs", "student alone on labels"),
         _times_as_fast("ours, later epochs", "student alone on labels")),
        ("later epochs, logits only / labels", ("ours, later epochs, logits only", "student alone on labels"),
         _times_as_fast("ours, later epochs, logits only", "student alone on labels")),
    )
}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = results.parser("speed", __doc__)
    made.add_argument("--turns", type=int, help="how many turns each contender has (10; quick: 2)")
    made.add_argument("--steps", type=int, help="optimizer steps in a turn (20; quick: 2)")
    made.add_argument("--warmup", type=int, help="untimed steps before the first turn (5; quick: 1)")
    made.add_argument("--only", action="append", choices=CONTENDERS, help="a contender to have; repeat for several")
    made.add_argument("--without", action="append", default=[], choices=CONTENDERS, help="a contender to leave out")
    made.add_argument("--keep", type=Path, help="put models, caches and logs into this new folder, and keep it")
    return made


def main(argv: Sequence[str]) -> None:
    """Measure, write the JSON and print the tables. Ends the program with a message if something is missing."""
    options = parser().parse_args(argv)
    if (options.only or options.without) and not options.quick and not options.output:
        parser().error("--only and --without leave figures out that the pages show: name another file with --output")
    results.fill(options, usual={"turns": 10, "steps": 20, "warmup": 5}, quick={"turns": 2, "steps": 2, "warmup": 1})
    without = [*options.without, "original"] if options.quick and not options.only else options.without
    names = [name for name in options.only or CONTENDERS if name not in without]
    folder = options.keep or Path(tempfile.mkdtemp(prefix="stillhouse-speed-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        figures, settings = measure(options, names, folder.resolve())
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    path = results.write("speed", options, settings, figures)
    print(tables(figures) + (f"\n\nwritten to {path}" if path else ""))


def measure(options: argparse.Namespace, names: Sequence[str], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures and the settings."""
    setting = QUICK if options.quick else FULL
    job = Job(folder, setting, warmup_steps=options.warmup, turn_steps=options.steps, num_turns=options.turns)
    wanted = job.num_rows + NUM_VALIDATION
    job.write(made_up_rows(wanted) if options.quick else
              read_rows(data_dir(options.data) / "train.jsonl.gz", wanted), made_up=options.quick)
    contenders = [_contender(name, folder) for name in names]
    seconds = take_turns(contenders, options.turns, folder)
    rows = job.turn_steps * setting.batch_size
    figures = {
        "rows_per_second": {name: [rows / value for value in values] for name, values in seconds.items()},
        "peak_rss_mb": {contender.name: contender.peak_rss_mb for contender in contenders},
        "ratios": ratios(seconds),
        "ten_epochs_s": ten_epochs(seconds, job),
    }
    chosen = {"turns": options.turns, "steps_per_turn": job.turn_steps, "warmup_steps": job.warmup_steps,
              "rows": job.num_rows, "textbrewer": textbrewer_environment.VERSION if "original" in names else None}
    return figures, {**setting.as_dict(), **chosen}


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Of what took part: the median ratio over turns, the lowest and highest, and that of all turns together."""
    found = {}
    for name, (needs, ratio) in RATIOS.items():
        if not all(contender in seconds for contender in needs):
            continue
        turns = [dict(zip(needs, values, strict=True))
                 for values in zip(*(seconds[contender] for contender in needs), strict=True)]
        totals = {contender: sum(seconds[contender]) for contender in needs}
        found[name] = {**results.spread([ratio(turn) for turn in turns]), "of_totals": ratio(totals)}
    return found


def ten_epochs(seconds: Mapping[str, Sequence[float]], job: Job) -> dict[str, float]:
    """Seconds of ten epochs of all rows, by the median of the turns: of one epoch times ten, but for the cache.

    None of them was trained for so long: they are extrapolated from steady rates, without set-up and evaluations.
    """
    epoch = {name: statistics.median(values) * job.num_rows / (job.turn_steps * job.setting.batch_size)
             for name, values in seconds.items()}
    others = ("original", "trainer, as blogs", "trainer, tuned")
    found: dict[str, float] = {name: 10 * epoch[name] for name in others if name in epoch}
    if {"ours, first epoch", "ours, later epochs"} <= set(epoch):
        found["ours"] = epoch["ours, first epoch"] + 9 * epoch["ours, later epochs"]
    if "ours, second student" in epoch:
        found["ours, second student"] = 10 * epoch["ours, second student"]
    return found


def tables(figures: Mapping[str, Any]) -> str:
    """Rows per second, and ratios, as text."""
    speeds = [(name, *(f"{value:.1f}" for value in results.spread(values).values()), figures["peak_rss_mb"][name])
              for name, values in figures["rows_per_second"].items()]
    compared = [(name, *(f"{value:.2f}" for value in values.values())) for name, values in figures["ratios"].items()]
    return (results.text_table(("rows per second", "median", "low", "high", "peak MB"), speeds) + "\n\n"
            + results.text_table(("times as fast", "median", "low", "high", "of totals"), compared))


def _contender(name: str, folder: Path) -> Contender:
    module, variant = CONTENDERS[name]
    interpreter = str(textbrewer_environment.python()) if module == "original" else sys.executable
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    command = [interpreter, "-m", f"benchmarks.contenders.{module}", str(folder), variant]
    return Contender(name, command, {"PYTHONPATH": path, "STILLHOUSE_CACHE": str(folder / "cache"),
                                     "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
