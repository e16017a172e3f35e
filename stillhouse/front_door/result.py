"""What comes out of `stillhouse.distill`."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.finished import FinishedRun, open_run, predict
from stillhouse.front_door.given_data import rows_of
from stillhouse.recipe.summary import results_text
from stillhouse.units import readable_bytes

if TYPE_CHECKING:
    from stillhouse.export import Exported


@final
@dataclass(frozen=True, eq=False, repr=False)
class DistillationResult:
    """A finished run. A notebook shows it as a table.

    Attributes:
        output: the run folder.
        metrics: what ``metrics.json`` there says.
    """

    output: Path
    metrics: Mapping[str, Any]

    @cached_property
    def student(self) -> PreTrainedModel:
        """The best student, on the CPU in eval mode; loaded when it is first asked for."""
        return self._run.load_student()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What the student reads with."""
        return self._run.tokenizer()

    @property
    def recipe(self) -> str:
        """The recipe of this run, as YAML: ``stillhouse run`` repeats it."""
        return (self.output / "recipe.yaml").read_text(encoding="utf-8")

    def predict(self, rows: Any, *, batch_size: int = 64, device: str = "auto") -> list[dict[str, Any]]:
        """What the student says of each row: its inputs and, beside them, the answer.

        Args:
            rows: a text; a list of texts or of mappings with the columns of the training data; a ``datasets.Dataset``,
                a pandas ``DataFrame``, or the `Path` of a file. Labels are not needed.
            batch_size: rows that the student reads together.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

        Raises `DataError` for rows without what the student reads, and as `stillhouse.finished.predict` does.
        """
        given = [rows] if isinstance(rows, str) else rows_of(rows)
        return predict(self._run, given, batch_size=batch_size, device=device)

    def report(self) -> Path:
        """Write the report page of this run, and give its path, ``report.html`` in the run folder."""
        from stillhouse.report import write_report  # draws charts, with libraries that nothing else here needs

        return write_report([self.output])

    def export(self, *, int8: bool = False, output: str | Path | None = None) -> Exported:
        """Write the student as ONNX, into ``onnx`` in the run folder if no ``output`` is named.

        Raises what `stillhouse.export.export_onnx` raises, `ConfigError` where the packages that it needs are missing
        among that.
        """
        from stillhouse.export import export_onnx  # an extra, which may not be installed

        return export_onnx(self._run, int8=int8, output=output)

    @cached_property
    def _run(self) -> FinishedRun:
        return open_run(self.output)

    def __repr__(self) -> str:
        return f"{results_text(self.metrics)}\nrun folder: {self.output}"

    def _repr_html_(self) -> str:
        metric, rows = self.metrics["metric"], []
        for name, one in (("teacher", self.metrics["teacher"]), ("student", self.metrics["student"]),
                          ("no teacher", self.metrics["contrast"])):
            if one is not None:
                rows.append([name, f"{one[metric]:.4f}", *_size_and_speed(one)])
        header = ["", metric, "parameters", "size", "one row", "rows/s"]
        retention = self.metrics["retention"]
        caption = "" if retention is None else (f"The student keeps {100 * retention:.1f} % of the teacher's {metric} "
                                                f"({self.metrics['split']} data). ")
        return (f"<table><thead>{_row('th', header)}</thead><tbody>{''.join(_row('td', row) for row in rows)}</tbody>"
                f"</table><p>{html.escape(caption)}Run folder: <code>{html.escape(str(self.output))}</code></p>")


def _size_and_speed(one: Mapping[str, Any]) -> list[str]:
    """Cells for a model; empty for what was not measured, such as a teacher that is only numbers."""
    if "parameters" not in one:
        return ["", "", "", ""]
    return [f"{one['parameters']:,}", readable_bytes(one["size_bytes"]), f"{one['latency_ms']:.1f} ms",
            f"{one['throughput_rows_per_s']:,.0f}"]


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
