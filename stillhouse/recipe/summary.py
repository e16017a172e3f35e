"""The results of a run as a small table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse.units import readable_bytes


def results_text(metrics: Mapping[str, Any]) -> str:
    """Teacher, student and contrast side by side; every number is from ``metrics.json``."""
    metric = metrics["metric"]
    rows = [["", metric, "parameters", "size", "one row", "rows/s"]]
    for name in ("teacher", "student"):
        one = metrics[name]
        if one is None or "parameters" not in one:  # a teacher that is only numbers
            rows += [[name, f"{one[metric]:.4f}", "", "", "", ""]] if one is not None else []
            continue
        rows.append([name, f"{one[metric]:.4f}", f"{one['parameters']:,}", readable_bytes(one["size_bytes"]),
                     f"{one['latency_ms']:.1f} ms", f"{one['throughput_rows_per_s']:,.0f}"])
    if metrics["contrast"] is not None:
        rows.append(["no teacher", f"{metrics['contrast'][metric]:.4f}", "", "", "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    if metrics["retention"] is not None:
        lines.append(f"the student keeps {100 * metrics['retention']:.1f} % of the teacher's {metric} "
                     f"({metrics['split']} data)")
    return "\n".join(lines)


def seeds_text(summary: Mapping[str, Any], metric: str) -> str:
    """Mean and spread over seeds of what matters; every number is from ``summary.json``."""
    rows = {"teacher": f"teacher.{metric}", "student": f"student.{metric}", "no teacher": f"contrast.{metric}",
            "retention": "retention"}
    lines = [f"{name:<10}  {summary['mean'][key]:.4f} ± {summary['std'][key]:.4f}"
             for name, key in rows.items() if key in summary["mean"]]
    return "\n".join([f"{metric} over the seeds {', '.join(map(str, summary['seeds']))}, mean ± standard deviation:",
                      *lines])
