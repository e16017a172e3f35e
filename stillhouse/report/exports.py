"""What is told of a student that was exported: size and speed of each file, and whether its answers stayed."""

from __future__ import annotations

from stillhouse.report.blocks import Block, Table, Text
from stillhouse.report.formatting import as_many, count, measure, milliseconds, readable_bytes, together
from stillhouse.report.run_files import Line, RunFiles


def export_blocks(run: RunFiles) -> list[Block]:
    """The table of ``onnx/export.json`` and a paragraph; nothing without one. Raises `DataError`."""
    export = run.export
    return [] if export is None else [_latency(export), Text(_fidelity(export))]


def _latency(export: Line) -> Table:
    """A row for each model that was timed, in the order of the file: teacher, student, ONNX in float32 and 8 bits."""
    sizes = list(dict.fromkeys(size for one in export["latency"] for size in one["by_batch"]))
    rows = [[one["model"], one["runtime"], readable_bytes(one["size_bytes"]),
             *(milliseconds(one["by_batch"][size]["ms"]) if size in one["by_batch"] else "" for size in sizes)]
            for one in export["latency"]]
    return Table(f"Exported to ONNX, on {_machine(export)}", ["", "runs in", "size",
                                                              *(as_many(int(size), "rows") for size in sizes)], rows,
                 num_names=2)


def _machine(export: Line) -> str:
    threads = export.get("threads")
    return str(export.get("device", "this machine")) + (f", {as_many(threads, 'threads')}" if threads else "")


def _fidelity(export: Line) -> str:
    difference, tolerance = export["parity"]["max_difference"], export["parity"].get("tolerance")
    allowed = "" if tolerance is None else f" (allowed: below {tolerance})"
    told = f"The largest difference between the outputs of student and export is {difference:.2g}{allowed}."
    metric, models = export["metric"], export["metrics"]
    if not models:
        return told
    scores = together([f"{measure(scores[metric])} in {name}" for name, scores in models.items()])
    rows = export["rows"]
    return f"{told} {metric} on {count(rows['number'])} rows of {rows['source']}: {scores}."
