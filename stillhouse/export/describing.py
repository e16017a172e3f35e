"""What was measured of an export, as text."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.export.exporting import TORCH, Exported
from stillhouse.export.parity import TOLERANCE
from stillhouse.units import readable_bytes


def exported_text(exported: Exported) -> str:
    """Parity, the metric before and after, a line for each that was timed, and where the files are."""
    lines = [f"largest difference from the student: {exported.parity.max_difference:.2g} (allowed: below {TOLERANCE})",
             *_quality(exported), "", *_table(exported), "", *(f"note: {note}" for note in exported.notes)]
    lines += [f"{exported.folder / name}: {readable_bytes(size)}" for name, size in exported.files.items()]
    if exported.uploaded_to is not None:
        lines.append(f"uploaded to {exported.uploaded_to}")
    return "\n".join(lines)


def _quality(exported: Exported) -> list[str]:
    if not exported.metrics:
        return []
    values = ", ".join(f"{values[exported.metric]:.4f} in {name}" for name, values in exported.metrics.items())
    shares = ", ".join(f"{share:.4f} in {name}" for name, share in exported.agreement.items())
    return [f"{exported.metric} on {exported.num_rows:,} rows of {exported.rows}: {values}",
            f"agreement with {TORCH}: {shares}"]


def _table(exported: Exported) -> list[str]:
    sizes = list(exported.latency[0].by_batch)
    rows: list[Sequence[str]] = [["", "runs in", "size", *(f"{_rows(size)}, ms" for size in sizes), "rows/s"]]
    for one in exported.latency:
        rows.append([one.model, one.runtime, readable_bytes(one.size_bytes),
                     *(f"{one.by_batch[size]['ms']:,.1f}" for size in sizes),
                     f"{one.by_batch[sizes[-1]]['rows_per_s']:,.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) if place < 2 else cell.rjust(width)
                      for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]


def _rows(size: str) -> str:
    return "1 row" if size == "1" else f"{size} rows"
