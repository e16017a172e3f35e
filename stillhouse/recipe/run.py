"""One run: from a recipe without stages to its folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from stillhouse.metrics import agreement
from stillhouse.recipe.attention_maps import write_back
from stillhouse.recipe.fitting import PhaseRecord, train
from stillhouse.recipe.measuring import size_and_speed
from stillhouse.recipe.prepare import Loaded, Prepared, make_student, prepare, supervised_plan
from stillhouse.recipe.prepare import with_trained_teacher as ready
from stillhouse.recipe.run_folder import RunFolder
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.summary import results_text
from stillhouse.recipe.teacher_training import trained_teacher
from stillhouse.recipe.versions import versions
from stillhouse.tasks import Judgement
from stillhouse.training import ConsoleSink, Sink, distributed


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, and what ``metrics.json`` there says."""

    output: Path
    metrics: dict[str, Any]
    stages: tuple[RunResult, ...] = ()
    """Of a recipe with stages, the result of each; the others are then those of the last."""

    @property
    def student_dir(self) -> Path:
        """The folder that ``from_pretrained`` loads."""
        return self.output / "student"


@dataclass
class Watch:
    """Who sees a run: a console for words and progress bars, and further sinks for events."""

    console: Console
    sinks: Sequence[Sink] = ()

    def say(self, text: str) -> None:
        """Print a line, on one rank."""
        if distributed.is_main():
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def sinks_of(self, title: str) -> list[Sink]:
        """The sinks of one training."""
        return [ConsoleSink(title), *self.sinks]


def run_one(recipe: Recipe, *, resume: bool, overwrite: bool, watch: Watch) -> RunResult:
    """A recipe without stages."""
    folder = RunFolder(recipe, resume=resume, overwrite=overwrite)
    if folder.is_finished and resume:
        watch.say(f"{folder.path} is finished already")
        return RunResult(folder.path, folder.metrics())
    prepared = prepare(recipe)
    with folder.opened():
        metrics = _Execution(prepared, folder, watch).results()
        if distributed.is_main():
            folder.save_metrics(metrics)
        distributed.wait_for_all()
    watch.say(results_text(metrics))
    watch.say(f"student: {folder.student_dir}\nresults: {folder.metrics_path}")
    return RunResult(folder.path, metrics)


@dataclass
class _Execution:
    """One run on its way, phase by phase."""

    prepared: Prepared
    folder: RunFolder
    watch: Watch
    seconds: dict[str, float] = field(default_factory=dict)

    def results(self) -> dict[str, Any]:
        """Run every phase; the content of ``metrics.json``."""
        teacher, self.seconds["teacher_training"] = trained_teacher(
            self.prepared, self.folder.phase("teacher", self.watch.sinks_of("teacher")), self.watch.say)
        if not self.prepared.teacher_is_trained:
            self.prepared = ready(self.prepared, teacher)
            self.folder.forget("teacher")
        on_device: nn.Module = self.prepared.teacher
        on_device.to(self.prepared.device)
        teacher_judged = self._judged(on_device)
        self._tell("teacher", teacher_judged)
        record = self._distil()
        student = self.prepared.student
        write_back(self.prepared.distilling.attention_dropouts, student)
        if distributed.is_main():
            self.folder.save_student(student, self.prepared.tokenizer)
        student_judged = self._judged(student)
        self._tell("student", student_judged)
        contrast = self._contrast()
        metrics = self._metrics(teacher_judged, student_judged, record, contrast)
        phases = {name: round(value, 2) for name, value in self.seconds.items()}
        metrics["wall_time_s"] = {**phases, "total": round(sum(phases.values()), 2)}
        return metrics

    def _distil(self) -> PhaseRecord:
        prepared, distilling = self.prepared, self.prepared.distilling
        self.watch.say(distilling.cache.description)
        source, store = distilling.cache.wrap(distilling.plan.teacher)
        try:
            plan = dataclasses.replace(distilling.plan, teacher=source)
            record = train(plan, prepared.recipe.training, prepared.precision, prepared.ground,
                           self.folder.phase("student", self.watch.sinks_of("student")))
        finally:
            if store is not None:
                store.close()
        self.seconds["distillation"] = record.seconds_s
        return record

    def _contrast(self) -> dict[str, Any] | None:
        prepared, recipe = self.prepared, self.prepared.recipe
        if recipe.contrast == "none":
            return None
        teacher = Loaded(prepared.teacher, prepared.tokenizer)
        model = make_student(recipe, prepared.task, teacher, prepared.stand_ins).model
        record = train(supervised_plan(prepared.task, model), recipe.training, prepared.precision, prepared.ground,
                       self.folder.phase("contrast", self.watch.sinks_of("without teacher")))
        self.seconds["contrast"] = record.seconds_s
        judged = self._judged(model)
        self._tell("the same student without a teacher", judged)
        return {**self._quality(judged), "starts_from": prepared.distilling.starts_from, "steps": record.steps,
                "best_step": record.best_step}

    def _judged(self, model: nn.Module) -> dict[str, Judgement]:
        """The model's answers on validation and test data."""
        started = time.perf_counter()
        judged = {
            split: self.prepared.task.evaluate(model, rows, autocast_dtype=self.prepared.precision.autocast_dtype)
            for split, rows in self.prepared.splits.items() if split != "train"
        }
        self.seconds["evaluation"] = self.seconds.get("evaluation", 0.0) + time.perf_counter() - started
        return judged

    def _quality(self, judged: dict[str, Judgement]) -> dict[str, Any]:
        return {**judged[self.prepared.reported_split].metrics, "validation": judged["validation"].metrics}

    def _tell(self, who: str, judged: dict[str, Judgement]) -> None:
        split = self.prepared.reported_split
        values = ", ".join(f"{name} {value:.4f}" for name, value in judged[split].metrics.items())
        self.watch.say(f"{who}: {values} on the {split} data")

    def _metrics(self, teacher: dict[str, Judgement], student: dict[str, Judgement], record: PhaseRecord,
                 contrast: dict[str, Any] | None) -> dict[str, Any]:
        prepared, split = self.prepared, self.prepared.reported_split
        started = time.perf_counter()
        rows = prepared.splits[split]
        speeds = [size_and_speed(model, rows, prepared.ground, prepared.precision)
                  for model in (prepared.teacher, prepared.student)]
        self.seconds["measuring"] = time.perf_counter() - started
        best = teacher[split].metrics[prepared.task.metric]
        return {
            "task": prepared.recipe.task, "metric": prepared.task.metric, "split": split,
            "rows": dict(prepared.task.num_rows),
            "teacher": self._quality(teacher) | speeds[0],
            "student": self._quality(student) | speeds[1] | {
                "agreement_with_teacher": agreement(student[split].logits, teacher[split].logits),
                "steps": record.steps, "best_step": record.best_step, "stopped": record.reason},
            "retention": student[split].metrics[prepared.task.metric] / best if best else None,
            "contrast": contrast,
            "teacher_forwards": {"distillation": record.rows_forwarded,
                                 "evaluation": sum(len(judged.labels) for judged in teacher.values())},
            "device": str(prepared.device), "precision": str(prepared.precision),
            "versions": versions(),
        }
