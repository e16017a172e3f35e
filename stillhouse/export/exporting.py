"""From a finished run to an ONNX file that was compared with its student, judged and timed."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from onnx import defs
from transformers import PreTrainedModel

from stillhouse.errors import ConfigError
from stillhouse.export import hub, packages
from stillhouse.export.contenders import contenders
from stillhouse.export.folders import (
    INT8_MODEL,
    MODEL,
    RESULTS,
    content_of,
    require_place,
    size_of,
    writing,
    written_aside,
)
from stillhouse.export.graphs import OLDEST_OPSET, Asked, write_graph
from stillhouse.export.parity import TOLERANCE, Parity, compared, require_parity
from stillhouse.export.quantizing import write_int8
from stillhouse.export.rows import ComparedRows, rows_to_compare
from stillhouse.export.sessions import OnnxModel, judged
from stillhouse.export.timing import Timing, timed
from stillhouse.finished import FinishedRun, open_run
from stillhouse.recipe.versions import versions
from stillhouse.tasks import Judgement
from stillhouse.whole_files import write_json

TORCH, ONNX, INT8 = "torch fp32", "onnx fp32", "onnx int8"
LARGEST_LOSS = 0.01
"""What 8 bits may cost of the metric before fewer weights are quantized; if that is not enough, a warning says so."""


@final
@dataclass(frozen=True)
class Exported:
    """What was written, and what was measured of it.

    Attributes:
        folder: holds everything.
        files: the bytes of ``model.onnx`` and, if it was asked for, ``model.int8.onnx``.
        rows: what the answers were compared on, in words.
        num_rows: how many those are.
        parity: how far the outputs in float32 are from the student's.
        metric: by which models of this task are chosen; higher is better.
        metrics: of the student in torch (``"torch fp32"``), ``"onnx fp32"`` and ``"onnx int8"``; empty where nobody
            knows what is right.
        agreement: how far the last two answer as the first, as `Judgement.agreement` says; empty for made-up tokens.
        latency: of the teacher, the student and the exported files, measured in turns on the CPU.
        notes: what could not be done, and why.
        uploaded_to: an address, if it was uploaded.
    """

    folder: Path
    files: Mapping[str, int]
    rows: str
    num_rows: int
    parity: Parity
    metric: str
    metrics: Mapping[str, Mapping[str, float]]
    agreement: Mapping[str, float]
    latency: tuple[Timing, ...]
    notes: tuple[str, ...]
    uploaded_to: str | None = None

    @property
    def model_path(self) -> Path:
        """The file in float32."""
        return self.folder / MODEL

    @property
    def int8_path(self) -> Path | None:
        """The file in 8 bits; None if there is none."""
        return self.folder / INT8_MODEL if INT8_MODEL in self.files else None


def export_onnx(
    run: str | Path | FinishedRun, *, task: str | None = None, int8: bool = False, output: str | Path | None = None,
    opset: int | None = None, num_rows: int | None = None, push_to_hub: str | None = None,
    tell: Callable[[str], object] = lambda text: None,
) -> Exported:
    """Write the student of a run as ONNX, after comparing its answers with those of the student.

    Args:
        run: a run folder, the folder of a model, or one that is open already.
        task: of a model that does not say itself what its task is.
        int8: also write it with weights in 8 bits.
        output: the folder to write; ``onnx`` in the run's without. An earlier export there is replaced.
        opset: the version of the ONNX operators; without it what torch's exporter prefers.
        num_rows: judge the first so many rows of the test data, or else all.
        push_to_hub: the name of a repository to upload the student and its export to.
        tell: is told what is being done.

    Warns if 8 bits cost more than 0.01 of the metric. Raises `ConfigError` before anything is exported for what cannot
    be done here, `PlanError` for a model that cannot be exported, and `OutputError` if outputs differ by 0.001 or more.
    After an error nothing is left in the folder, or what was there before.
    """
    packages.require_packages()
    _require_opset(opset)
    if num_rows is not None and num_rows < 1:
        raise ConfigError(f"num_rows={num_rows}: answers are compared on 1 row or more; leave it out for all")
    opened = run if isinstance(run, FinishedRun) else open_run(run, task=task)
    if push_to_hub is not None:
        hub.require_access(push_to_hub)
        _require_folder(opened)
    folder = _default_place(opened) if output is None else Path(output).expanduser()
    require_place(folder)
    with written_aside(folder) as aside:
        exported = _Export(opened, folder, aside, opset, int8, tell).results(num_rows)
        with writing(folder):
            write_json(aside / RESULTS, {**_as_dict(exported, opened), "content": content_of(aside)})
    exported = dataclasses.replace(exported, folder=folder)
    if push_to_hub is None:
        return exported
    tell(f"uploading to {push_to_hub}")
    return dataclasses.replace(exported, uploaded_to=hub.upload(push_to_hub, opened.student_dir, folder))


@dataclass
class _Export:
    """One export on its way, into a folder that is nobody's yet."""

    run: FinishedRun
    output: Path
    """Where the folder will be."""
    folder: Path
    opset: int | None
    int8: bool
    tell: Callable[[str], object]

    def results(self, num_rows: int | None) -> Exported:
        """Write both files, and measure them."""
        student = self.run.load_student()
        rows = rows_to_compare(self.run, student, num_rows)
        notes = [f"{rows.note}; answers were compared on {rows.source}"] if rows.note else []
        graphs = self._written(student, rows)
        self.tell(f"comparing answers on {rows.source}")
        parity = compared(Asked(student, rows.task, rows.encoded.batch([0])), graphs[ONNX], rows.encoded,
                          per_token=rows.task.predicts in ("tokens", "spans"))
        require_parity(parity)
        answers = self._judged(student, graphs, rows)
        if rows.has_data and self.int8 and (loss := _loss(answers, rows)) > LARGEST_LOSS:
            notes += self._more_careful(graphs, answers, rows, loss)
        self.tell("measuring how long answers take")
        paths = {name: (graph, self._path(name)) for name, graph in graphs.items()}
        with contenders(self.run, student, paths, rows) as (found, note):
            latency = tuple(timed(found))
        return Exported(
            self.folder, {path.name: size_of(path) for _, path in paths.values()}, rows.source, len(rows),
            parity, rows.task.metric,
            {name: answer.metrics for name, answer in answers.items()} if rows.has_data else {},
            {name: answer.agreement(answers[TORCH]) for name, answer in answers.items() if name != TORCH}, latency,
            (*notes, *([note] if note else [])))

    def _more_careful(self, graphs: dict[str, OnnxModel], answers: dict[str, Judgement], rows: ComparedRows,
                      loss: float) -> list[str]:
        """Write 8 bits again with fewer matrices in them, and say so; warn if that is not enough."""
        self.tell(f"8 bits cost {loss:.4f} of the {rows.task.metric}: quantizing fewer weights")
        with writing(self.output):
            write_int8(self._path(ONNX), self._path(INT8), spare_narrowing=True)
        graphs[INT8] = OnnxModel(self._path(INT8), torch.get_num_threads())
        answers[INT8] = judged(graphs[INT8], rows.task, rows.encoded)
        if (left := _loss(answers, rows)) > LARGEST_LOSS:
            warnings.warn(f"8 bits cost {left:.4f} of the {rows.task.metric}; use {MODEL} where that is too much",
                          stacklevel=4)
        return [f"matrices with fewer outputs than inputs stay in float32, since 8 bits cost {loss:.4f} of the "
                f"{rows.task.metric} with them and cost {left:.4f} without"]

    def _written(self, student: PreTrainedModel, rows: ComparedRows) -> dict[str, OnnxModel]:
        tokenizer, batch, names = self.run.tokenizer(), rows.encoded.batch([0]), [ONNX]
        with writing(self.output):
            self.tell("writing the student as ONNX")
            write_graph(student, rows.task, batch, self._path(ONNX), self.opset)
            if self.int8:
                self.tell("quantizing its weights")
                write_int8(self._path(ONNX), self._path(INT8))
                names.append(INT8)
            tokenizer.save_pretrained(self.folder)
            student.config.save_pretrained(self.folder)
        return {name: OnnxModel(self._path(name), torch.get_num_threads()) for name in names}

    def _judged(self, student: PreTrainedModel, graphs: Mapping[str, OnnxModel],
                rows: ComparedRows) -> dict[str, Judgement]:
        """The answers of each to the rows; none to made-up tokens, which mean nothing."""
        if rows.examples is None:
            return {}
        return {TORCH: rows.task.evaluate(student, rows.encoded),
                **{name: judged(graph, rows.task, rows.encoded) for name, graph in graphs.items()}}

    def _path(self, name: str) -> Path:
        return self.folder / {ONNX: MODEL, INT8: INT8_MODEL}[name]


def _loss(answers: Mapping[str, Judgement], rows: ComparedRows) -> float:
    """What 8 bits cost of the metric."""
    return answers[TORCH].metrics[rows.task.metric] - answers[INT8].metrics[rows.task.metric]


def _require_folder(run: FinishedRun) -> None:
    if not run.student_dir.is_dir():
        raise ConfigError(f"--push-to-hub: the model {run.path} is on the hub already; give a run's folder, or a "
                          "model's, or leave --push-to-hub out")


def _default_place(run: FinishedRun) -> Path:
    if not run.path.is_dir():
        raise ConfigError(f"the model {run.path} is on the hub, so that there is no folder to put its export into; "
                          "name one: --output FOLDER")
    return run.path / "onnx"


def _require_opset(opset: int | None) -> None:
    newest = defs.onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        raise ConfigError(f"--opset {opset}: torch's exporter writes operators of version {OLDEST_OPSET} or later, and "
                          f"the package onnx here knows none after {newest}; give a number between, or leave it out")


def _as_dict(exported: Exported, run: FinishedRun) -> dict[str, Any]:
    """What ``export.json`` says of it."""
    return {
        "format": "onnx", "task": run.task.name, "metric": exported.metric, "files": dict(exported.files),
        "rows": {"source": exported.rows, "number": exported.num_rows},
        "parity": {"max_difference": exported.parity.max_difference, "tolerance": TOLERANCE,
                   "batches": [list(shape) for shape in exported.parity.batches]},
        "metrics": exported.metrics, "agreement": exported.agreement,
        "latency": [dataclasses.asdict(one) for one in exported.latency],
        "device": "cpu", "threads": torch.get_num_threads(), "notes": list(exported.notes),
        "versions": {**versions(), **packages.versions()},
    }
