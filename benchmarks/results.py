"""Results: a JSON file for each benchmark, and plain tables of them."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS_DIR = Path(__file__).resolve().parent / "results"


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; add your own."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=description)
    made.add_argument("--quick", action="store_true", help="tiny models and a few steps: shows that it runs, no more")
    made.add_argument("--output", type=Path, help="the JSON file; a quick run without it writes none")
    made.add_argument("--data", type=Path, help="the folder of SST-2, with train.jsonl.gz, dev.jsonl.gz, test.jsonl.gz "
                                                "and labels.json (else $STILLHOUSE_BENCH_DATA, else "
                                                "../shared/data/sst2)")
    return made


def fill(options: argparse.Namespace, *, usual: Mapping[str, Any], quick: Mapping[str, Any]) -> None:
    """Give the options that were not named their value: the usual one, or that of a quick run."""
    for name, value in (quick if options.quick else usual).items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def write(name: str, options: argparse.Namespace, settings: dict[str, Any], figures: dict[str, Any]) -> Path | None:
    """Write ``{name, machine, settings, figures}`` aside, then rename; may be called again as figures come in.

    What the file holds of the same settings and commit beside these figures stays. Gives the file, or None for a quick
    run without ``--output``.
    """
    path: Path | None = options.output or (None if options.quick else RESULTS_DIR / f"{name}.json")
    if path is None:
        return None
    now = machine.describe()
    earlier = read(path)
    if earlier is not None and earlier["settings"] == settings and earlier["machine"]["commit"] == now["commit"]:
        figures = {**earlier["figures"], **figures}  # of parts that are not measured again
    content = {"name": name, "quick": options.quick, "machine": now, "settings": settings, "figures": figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".writing-{path.name}")
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote; None if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def text_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
