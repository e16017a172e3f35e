"""Puts the results into the pages: ``python -m benchmarks.table`` writes tables between markers, ``--check`` compares.

A marker is ``<!-- results: NAME -->`` and its end ``<!-- end of results -->``. What has no JSON in ``results/``, or
that of a quick run, is "not measured".
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.machine import REPOSITORY, one_line

PAGES = (REPOSITORY / "docs" / "performance.md", REPOSITORY / "README.md")
NOT_MEASURED = "Not measured."
_BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)

Figures = Mapping[str, Any]

RATIOS = {
    "first epoch / original": ("first epoch, which fills the cache / original", "6 (goal 8)"),
    "ten epochs / original": ("ten epochs / original", "15 (goal 20)"),
    "second student / original": ("a second student on the same cache / original", "20 (goal 25)"),
    "live teacher / original": ("live teacher, no cache / original", ""),
    "live teacher / minimal loop": ("live teacher, all word embeddings updated / minimal loop", "0.97"),
    "labels / original": ("the student alone on labels, without any teacher / original", ""),
    "ten epochs / trainer, as blogs": ("ten epochs / transformers.Trainer as blogs write it", "10"),
    "ten epochs / trainer, tuned": ("ten epochs / transformers.Trainer tuned", "2.2"),
    "later epochs, logits only / labels": ("cached, logits only / the student alone on labels", "0.95"),
    "later epochs / labels": ("cached, hidden states too / the student alone on labels", "0.75"),
}
"""Ratios of speed: what the pages call them, and the least that was asked for."""


def main(argv: Sequence[str]) -> None:
    """Write the pages, or end the program with a message if ``--check`` finds one that is not as it would be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is behind the results")
    options = parser.parse_args(argv)
    found = read_results(results.RESULTS_DIR)
    for page in PAGES:
        now = page.read_text(encoding="utf-8")
        then = filled(now, found)
        if options.check and then != now:
            raise SystemExit(f"{page.relative_to(REPOSITORY)} is behind the results: run python -m benchmarks.table")
        if then != now:
            page.write_text(then, encoding="utf-8")


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What was measured in full, by name."""
    read = {path.stem: results.read(path) for path in sorted(folder.glob("*.json"))}
    return {name: result for name, result in read.items() if result is not None and not result["quick"]}


def filled(page: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A page with the tables of the results between its markers. Raises `KeyError` for a marker of another name."""
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]](found)}\n{match[3]}", page)


def _block(name: str, text: Callable[[Figures], str]) -> Callable[[Mapping[str, Mapping[str, Any]]], str]:
    """The text of one result and the machine that it is from."""
    def block(found: Mapping[str, Mapping[str, Any]]) -> str:
        if name not in found:
            return NOT_MEASURED
        body = text(found[name]["figures"])
        return f"{body}\n\nMeasured on {one_line(found[name]['machine'])}." if body else NOT_MEASURED

    return block


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table: the first column to the left, the others to the right."""
    sides = ["---", *["--:"] * (len(headers) - 1)]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in [headers, sides, *rows])


def _speeds(figures: Figures) -> str:
    rows = [(name, *(f"{value:.1f}" for value in results.spread(values).values()), figures["peak_rss_mb"][name])
            for name, values in figures["rows_per_second"].items()]
    return _markdown(("rows a second", "median", "lowest", "highest", "peak memory, MB"), rows)


def _ratios(figures: Figures) -> str:
    measured = figures["ratios"]
    rows = [(text, *(f"{measured[name][of]:.2f}" for of in ("median", "low", "high", "of_totals")), least)
            for name, (text, least) in RATIOS.items() if name in measured]
    table = _markdown(("times as fast", "median", "lowest", "highest", "of all turns", "at least"), rows)
    whole = [(name, f"{value / 60:.1f}") for name, value in figures.get("ten_epochs_s", {}).items()]
    return "\n\n".join([table, _markdown(("ten epochs of the benchmark's rows, extrapolated", "minutes"), whole)]
                       if whole else [table])


def _quality(figures: Figures) -> str:
    rows = [(way, *(f"{100 * row[split][of]:.2f} %" for split in ("validation", "test")
                    for of in ("median", "low", "high")), f"{row['seconds']['median']:.0f}")
            for way, row in figures["summary"].items()]
    return _markdown(("", "validation", "lowest", "highest", "test", "lowest", "highest", "seconds"), rows)


def _grown(part: str, header: str) -> Callable[[Figures], str]:
    def text(figures: Figures) -> str:
        rows = [(row["name"], *(f"{row[of]:,.0f}" for of in ("median", "low", "high")), row["peak_rss_mb"])
                for row in figures.get(part, ())]
        return _markdown((header, "rows a second", "lowest", "highest", "peak memory, MB"), rows) if rows else ""

    return text


def _cache(figures: Figures) -> str:
    rows = [(f"{row['size_bytes'] / 1e6:,.0f} MB", f"{row['rows']:,}", f"{row['written_rows_per_second']:,.0f}",
             f"{row['read_ms_a_batch']:.2f}", f"{row['read_ms_a_batch_p99']:.2f}", row["anonymous_mb"])
            for row in figures.get("cache", ())]
    return _markdown(("cache", "rows", "rows written a second", "reading a batch of 32, ms", "99 % of batches, ms",
                      "memory, MB"), rows) if rows else ""


def _startup(figures: Figures) -> str:
    return _markdown(("seconds", "median", "lowest", "highest"),
                     [(name, *(f"{row[of]:.2f}" for of in ("median", "low", "high")))
                      for name, row in figures.items()])


def _gpu_speeds(figures: Figures) -> str:
    peak = figures["peak"]
    rows = [(cell["student"], cell["sequences"], cell["batch_size"], cell["way"],
             f"{cell['rows_per_second']['median']:,.0f}", f"{cell['step_ms']:.1f}", f"{cell['tflops']:.0f}",
             f"{100 * cell['share_of_peak']:.1f} %", _of_datasheet(cell, peak), f"{cell['peak_memory_gb']:.1f}")
            for cell in figures["cells"]]
    missing = [", ".join(str(part) for part in name.values()) for name in figures["left_out"]]
    return "\n\n".join([
        _markdown(("student", "sequences", "batch", "", "rows a second", "step, ms", "TFLOP/s",
                   "of the measured peak", "of the datasheet's", "memory, GB"), rows),
        f"A product of two 8192×8192 matrices in bf16 reached {peak['measured_tflops']:.0f} TFLOP/s there.",
        *([f"Not measured, for lack of time: {'; '.join(missing)}."] if missing else [])])


def _of_datasheet(cell: Figures, peak: Figures) -> str:
    given = peak["datasheet_tflops"]
    return "" if given is None else f"{100 * cell['tflops'] / given:.1f} %"


def _gpu_phases(figures: Figures) -> str:
    phases = list(dict.fromkeys(phase for cell in figures["cells"] for phase in cell["phases_ms"]))
    rows = [(cell["student"], cell["sequences"], cell["batch_size"], cell["way"],
             *(f"{cell['phases_ms'].get(phase, 0.0):.1f}" for phase in phases))
            for cell in figures["cells"] if cell["phases_ms"]]
    return _markdown(("student", "sequences", "batch", "ms a step", *phases), rows) if rows else ""


def _summary(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's few lines."""
    lines = []
    if "speed" in found:
        measured = found["speed"]["figures"]["ratios"]
        lines += [(f"{RATIOS[name][0]}", f"{measured[name]['median']:.1f} times as fast")
                  for name in ("first epoch / original", "ten epochs / original", "second student / original",
                               "ten epochs / trainer, as blogs", "ten epochs / trainer, tuned") if name in measured]
        if "live teacher / minimal loop" in measured:
            lines.append((RATIOS["live teacher / minimal loop"][0],
                          f"{measured['live teacher / minimal loop']['median']:.2f} times as fast"))
    if "gpu" in found:
        cells = [cell for cell in found["gpu"]["figures"]["cells"]
                 if cell["way"] == "live teacher" and cell["sequences"] != "like SST-2"]  # one shape, the same for all
        name = found["gpu"]["machine"]["gpus"][0]
        lines += [(f"{cell['student']}, {cell['sequences']}, batch {cell['batch_size']}, live teacher, on {name}",
                   f"{cell['rows_per_second']['median']:,.0f} rows a second") for cell in cells[:1]]
    if not lines:
        return NOT_MEASURED
    machines = f"\n\nRatios on {one_line(found['speed']['machine'])}." if "speed" in found else ""
    return _markdown(("", "measured"), lines) + machines


BLOCKS: Mapping[str, Callable[[Mapping[str, Mapping[str, Any]]], str]] = {
    "summary": _summary,
    "speeds": _block("speed", _speeds),
    "ratios": _block("speed", _ratios),
    "quality": _block("quality", _quality),
    "rows": _block("scaling", _grown("rows", "rows of data")),
    "batch": _block("scaling", _grown("batch", "batch")),
    "ranks": _block("scaling", _grown("ranks", "processes")),
    "cache": _block("scaling", _cache),
    "startup": _block("startup", _startup),
    "gpu": _block("gpu", _gpu_speeds),
    "gpu-phases": _block("gpu", _gpu_phases),
}
"""What can stand between markers."""


if __name__ == "__main__":
    main(sys.argv[1:])
