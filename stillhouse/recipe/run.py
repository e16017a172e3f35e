"""One run: from a recipe without stages to its folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from stillhouse.model_size import count_parameters
from stillhouse.recipe.attention_maps import write_back
from stillhouse.recipe.fitting import PhaseRecord, train
from stillhouse.recipe.judging import judged_teacher
from stillhouse.recipe.measuring import size_and_speed, together
from stillhouse.recipe.pages import write_card, write_page
from stillhouse.recipe.predictions import prediction_lines
from stillhouse.recipe.prepare import Prepared, prepare, supervised_plan
from stillhouse.recipe.prepare import with_trained_teachers as ready
from stillhouse.recipe.run_folder import RunFolder
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.student_making import make_student
from stillhouse.recipe.summary import results_text
from stillhouse.recipe.teacher_training import teacher_phase, trained_teachers
from stillhouse.recipe.tracking import Trackers, opened_trackers
from stillhouse.recipe.versions import versions
from stillhouse.tasks import Judgement
from stillhouse.training import ConsoleSink, Profile, Sink, distributed


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
    """Who sees a run: a console for words and progress bars, further sinks for events, and what the recipe names.

    ``profile_steps``: how many steps of the student's training are measured; None: none.
    """

    console: Console
    sinks: Sequence[Sink] = ()
    profile_steps: int | None = None
    trackers: Trackers = field(default_factory=Trackers)

    def say(self, text: str) -> None:
        """Print a line, on one rank."""
        if distributed.is_main():
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def sinks_of(self, phase: str, title: str | None = None) -> list[Sink]:
        """The sinks of one training; the console calls it ``title``, or as the phase is called."""
        return [ConsoleSink(title or phase, self.console), *self.sinks, *self.trackers.sinks(phase)]

    def profile(self, folder: Path) -> Profile | None:
        """What is measured, into a folder."""
        if self.profile_steps is None:
            return None
        return Profile(folder, self.profile_steps, tell=lambda found: self.say(f"{found}\nprofile: {folder}"))

    def require_length(self, prepared: Prepared) -> None:
        """Raise `PlanError` if a training is too short to be measured."""
        profile = self.profile(Path(prepared.recipe.output))
        if profile is not None:
            profile.require(prepared.total_steps, prepared.device)


def run_one(recipe: Recipe, *, resume: bool, overwrite: bool, watch: Watch) -> RunResult:
    """A recipe without stages."""
    folder = RunFolder(recipe, resume=resume, overwrite=overwrite)
    if folder.is_finished and resume:
        unmeasured = "" if watch.profile_steps is None else ", so that nothing was measured; --overwrite runs it again"
        watch.say(f"{folder.path} is finished already{unmeasured}")
        return RunResult(folder.path, folder.metrics())
    prepared = prepare(recipe)
    watch.require_length(prepared)
    with folder.opened(), opened_trackers(recipe, folder.path) as trackers:
        for name, tracker in trackers.by_name.items():
            watch.say(f"{name}: {tracker.place}")
        metrics = _Execution(prepared, folder, dataclasses.replace(watch, trackers=trackers)).results()
        if distributed.is_main():
            folder.save_metrics(metrics)
            trackers.show_results(metrics)
        distributed.wait_for_all()
    watch.say(results_text(metrics))
    page = None
    if distributed.is_main():
        write_card(folder.path, folder.student_dir)
        page = write_page(folder.path)
    watch.say(f"student: {folder.student_dir}\nresults: {folder.metrics_path}" + (f"\nreport:  {page}" if page else ""))
    return RunResult(folder.path, metrics)


@dataclass
class _Execution:
    """One run on its way, phase by phase."""

    prepared: Prepared
    folder: RunFolder
    watch: Watch
    seconds: dict[str, float] = field(default_factory=dict)
    rows_judged: int = 0
    """Rows that the teacher was really asked to be judged by."""

    def results(self) -> dict[str, Any]:
        """Run every phase; the content of ``metrics.json``."""
        self._train_teachers()
        record = self._distil()
        teacher_judged = self._teacher_judged()  # not before: a poor teacher shows in the student's first evaluation
        if teacher_judged:
            self._tell("teacher", teacher_judged)
        student = self.prepared.student
        write_back(self.prepared.distilling.student.attention_dropouts, student)
        if distributed.is_main():
            self.folder.save_student(student, self.prepared.tokenizer)
        student_judged = self._judged(student)
        self._tell("student", student_judged)
        self._keep_predictions(student_judged, teacher_judged)
        contrast = self._contrast()
        metrics = self._metrics(teacher_judged, student_judged, record, contrast)
        phases = {name: round(value, 2) for name, value in self.seconds.items()}
        metrics["wall_time_s"] = {**phases, "total": round(sum(phases.values()), 2)}
        return metrics

    def _train_teachers(self) -> None:
        watch, number = self.watch, len(self.prepared.teaching.members)
        were_trained = self.prepared.teaching.is_trained
        models, self.seconds["teacher_training"] = trained_teachers(
            self.prepared, lambda name: self.folder.phase(name, watch.sinks_of(name)), watch.say)
        if not were_trained:
            self.prepared = ready(self.prepared, models)
            for index in range(number):
                self.folder.forget(teacher_phase(index, number))
        self.prepared.teaching.move_to(self.prepared.device)

    def _distil(self) -> PhaseRecord:
        prepared, distilling = self.prepared, self.prepared.distilling
        self.watch.say(distilling.cache.description)
        source, store = distilling.cache.wrap(distilling.plan.teacher)
        try:
            plan = dataclasses.replace(distilling.plan, teacher=source)
            phase = self.folder.phase("student", self.watch.sinks_of("student"))
            record = train(plan, prepared.recipe.training, prepared.precision, prepared.ground,
                           dataclasses.replace(phase, profile=self.watch.profile(self.folder.profile_dir)))
        finally:
            if store is not None:
                store.close()
        self.seconds["distillation"] = record.seconds_s
        return record

    def _contrast(self) -> dict[str, Any] | None:
        prepared, recipe = self.prepared, self.prepared.recipe
        if recipe.contrast == "none":
            return None
        model = make_student(recipe, prepared.task, prepared.teaching, prepared.stand_ins).model
        record = self._without_teacher(model) if prepared.task.has_labels else None
        on_device: nn.Module = model
        on_device.to(prepared.device)
        judged = self._judged(model)
        self._tell("the same student without a teacher", judged)
        return {**self._quality(judged), "starts_from": prepared.distilling.student.starts_from,
                "steps": 0 if record is None else record.steps,
                "best_step": None if record is None else record.best_step}

    def _without_teacher(self, model: PreTrainedModel) -> PhaseRecord:
        """Train on the labels alone, for as many steps."""
        prepared, settings = self.prepared, self.prepared.recipe.training
        ground = prepared.contrast_ground
        if len(ground.train) < len(prepared.ground.train):  # fewer rows have labels; the steps stay as many
            settings = settings.model_copy(update={"epochs": None, "steps": prepared.total_steps})
        record = train(supervised_plan(prepared.task, model), settings, prepared.precision, ground,
                       self.folder.phase("contrast", self.watch.sinks_of("contrast", "without teacher")))
        self.seconds["contrast"] = record.seconds_s
        return record

    def _judged(self, model: nn.Module) -> dict[str, Judgement]:
        """The student's answers on validation and test data."""
        return self._timed(lambda split: self.prepared.task.evaluate(
            model, self.prepared.splits[split], autocast_dtype=self.prepared.precision.autocast_dtype))

    def _teacher_judged(self) -> dict[str, Judgement]:
        """The teacher's answers on these, of several together; none where soft labels stand in the train data alone."""
        prepared, store = self.prepared, None
        source = prepared.teaching.source(prepared.task, prepared.precision.autocast_dtype)
        if prepared.teaching.judged_from_cache:
            source, store = prepared.distilling.cache.wrap(source)
        before = source.rows_forwarded
        try:
            return self._timed(lambda split: judged_teacher(prepared, source, split))
        finally:
            self.rows_judged = source.rows_forwarded - before
            if store is not None:
                store.close()

    def _timed(self, judge: Callable[[str], Judgement | None]) -> dict[str, Judgement]:
        started = time.perf_counter()
        judged = {split: judge(split) for split in self.prepared.splits if split != "train"}
        self.seconds["evaluation"] = self.seconds.get("evaluation", 0.0) + time.perf_counter() - started
        return {split: one for split, one in judged.items() if one is not None}

    def _keep_predictions(self, student: dict[str, Judgement], teacher: dict[str, Judgement]) -> None:
        task, split = self.prepared.task, self.prepared.reported_split
        if distributed.is_main() and not task.unsaid:
            self.folder.save_predictions(prediction_lines(task, split, student[split], teacher.get(split)))

    def _quality(self, judged: dict[str, Judgement]) -> dict[str, Any]:
        validation = {"validation": judged["validation"].metrics} if "validation" in judged else {}
        return {**judged[self.prepared.reported_split].metrics, **validation}

    def _tell(self, who: str, judged: dict[str, Judgement]) -> None:
        split = self.prepared.reported_split
        values = ", ".join(f"{name} {value:.4f}" for name, value in judged[split].metrics.items())
        self.watch.say(f"{who}: {values} on the {split} data")

    def _metrics(self, teacher: dict[str, Judgement], student: dict[str, Judgement], record: PhaseRecord,
                 contrast: dict[str, Any] | None) -> dict[str, Any]:
        prepared, split = self.prepared, self.prepared.reported_split
        metric, ours = prepared.task.metric, student[split]
        started = time.perf_counter()
        rows = prepared.splits[split]
        speed = size_and_speed(prepared.student, rows, prepared.ground, prepared.precision)
        teachers = [{**size_and_speed(member.answering, prepared.distilling.reading.teacher[split], prepared.ground,
                                      member.precision(prepared.precision)),
                     "parameters": count_parameters(member.model)} for member in prepared.teaching.members]
        self.seconds["measuring"] = time.perf_counter() - started
        best = teacher[split].metrics[metric] if split in teacher else None
        return {
            "task": prepared.recipe.task, "metric": metric, "split": split,
            "rows": dict(prepared.task.num_rows),
            "label_names": list(prepared.task.label_names) if len(prepared.task.label_names) > 1 else [],
            "teacher": (self._quality(teacher) | together(teachers) | prepared.teaching.quantization
                        if split in teacher else None),
            "student": self._quality(student) | speed | {
                "agreement_with_teacher": ours.agreement(teacher[split]) if split in teacher else None,
                "steps": record.steps, "best_step": record.best_step, "stopped": record.reason},
            "retention": ours.metrics[metric] / best if best is not None and best > 0 else None,
            "contrast": contrast,
            "teacher_forwards": {"distillation": record.rows_forwarded, "evaluation": self.rows_judged},
            "device": str(prepared.device), "precision": str(prepared.precision),
            "versions": versions(),
        }
