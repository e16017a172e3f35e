"""Training on a GPU: rows a second, share of the card's peak in bf16, memory, and where the time of a step goes.

One command, ``python -m benchmarks gpu``, in a few minutes, without network or model weights: a teacher of BERT-base
shape with random weights, a student T4-tiny or of six layers, sentences as long as those of SST-2 (in batches of
similar length) and sentences of 128 tokens, batches of 128 and 512. Each is trained with the live teacher, in the
epoch that fills the cache, in one that reads it, and, beside, by a minimal loop of plain PyTorch. ``--quick`` runs
small and anywhere.

The time is that of stretches of steps between two waits for the device, after a warm-up; the phases are measured in
further steps, which wait after each phase. FLOPs are those of the matrix products on the batches' real shapes, padding
included. What the time limit leaves out is named in the result.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import model_flops, results, texts
from benchmarks.contenders import minimal, ours
from benchmarks.setting import FULL, QUICK, Job, Setting, Shape, read_rows, write_rows
from benchmarks.stopwatch import Stopwatch
from benchmarks.turns import StoppedError

if TYPE_CHECKING:
    from stillhouse.recipe.prepare import Prepared
    from stillhouse.training import StepProfile

MAX_LENGTH = 128
DATASHEET_TFLOPS = {"H100 80GB HBM3": 989.4, "H200": 989.4, "H100 PCIe": 756.0, "A100": 312.0}
"""Dense bf16, by a part of the card's name."""
WAYS = ("live teacher", "first epoch", "later epochs", "minimal loop")
_STUDENTS = {
    "T4-tiny": FULL,
    "six layers": dataclasses.replace(FULL, student=Shape(6, 768, 12, 3072), pairs=((0, 0), (4, 2), (8, 4), (12, 6))),
}
_SEQUENCES = {"like SST-2": False, "128 tokens": True}
_NUM_VALIDATION = 8
_LIMIT_S = 15.0


@dataclass(frozen=True)
class Group:
    """What shares its models and its rows: some batch sizes of a student on sequences, with how many steps each."""

    student: str
    sequences: str
    batches: Mapping[int, Pace]

    @property
    def setting(self) -> Setting:
        """The models and losses."""
        return dataclasses.replace(_STUDENTS[self.student], max_length=MAX_LENGTH)

    @property
    def num_rows(self) -> int:
        """Enough for each batch size's steps to be one epoch."""
        return max(size * pace.num_steps for size, pace in self.batches.items())


@dataclass(frozen=True)
class Pace:
    """How many steps: of warm-up, in each of some stretches that are timed, and of those whose phases are measured."""

    warm_up: int
    steps: int
    stretches: int = 3
    profiled: int = 5

    @property
    def num_steps(self) -> int:
        """All of them; on a GPU those that are profiled are run twice."""
        return self.warm_up + self.steps * self.stretches + 2 * self.profiled


GROUPS = (
    Group("T4-tiny", "like SST-2", {512: Pace(5, 10), 128: Pace(5, 20)}),
    Group("T4-tiny", "128 tokens", {512: Pace(3, 3, profiled=2), 128: Pace(4, 8, profiled=4)}),
    Group("six layers", "like SST-2", {512: Pace(5, 10)}),
    Group("six layers", "128 tokens", {512: Pace(3, 3, profiled=2)}),
)
SMALL_GROUPS = (Group("T4-tiny", "like SST-2", {4: Pace(1, 1, 2, 1)}),
                Group("T4-tiny", "128 tokens", {4: Pace(1, 1, 2, 1)}))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = results.parser("gpu", __doc__)
    made.add_argument("--rows", type=Path, help="a file of JSON lines with sentences of SST-2 (else made-up ones)")
    made.add_argument("--seconds", type=float, default=210.0, help="begin nothing more after so many seconds (210)")
    made.add_argument("--folder", type=Path, help="where models and caches go for a while: up to 15 GB")
    return made


def main(argv: Sequence[str]) -> None:
    """Measure, write the JSON after each figure, and print the tables. Ends with a message where there is no GPU."""
    started = time.perf_counter()
    options = parser().parse_args(argv)
    from stillhouse.training import resolve_device

    device = resolve_device("auto")
    if device.type != "cuda" and not options.quick:
        raise SystemExit("torch finds no CUDA device here, so there is nothing to measure; --quick shows that it runs")
    groups = SMALL_GROUPS if options.quick else GROUPS
    figures: dict[str, Any] = {"peak": _peak(device), "cells": [], "left_out": []}
    settings = {"teacher": dataclasses.asdict(FULL.teacher), "max_length": MAX_LENGTH, "seconds": options.seconds,
                "students": {name: dataclasses.asdict(setting.student) for name, setting in _STUDENTS.items()},
                "rows": "made up" if options.rows is None else options.rows.name}
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-gpu-", dir=options.folder))
    try:
        for group in groups:
            bench = None
            for size in group.batches:
                for way in WAYS:
                    name = {"student": group.student, "sequences": group.sequences, "batch_size": size, "way": way}
                    if time.perf_counter() - started > options.seconds:
                        figures["left_out"].append(name)
                        continue
                    bench = bench or _Bench(group, folder, options, device, figures["peak"])
                    figures["cells"].append({**name, **bench.measure(size, way)})
                    _tell(figures["cells"][-1], time.perf_counter() - started)
                    results.write("gpu", options, settings, figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results.write("gpu", options, settings, figures)
    print(tables(figures))


def tables(figures: Mapping[str, Any]) -> str:
    """Speeds, and phases, as text."""
    peak = figures["peak"]
    speeds = [(_name(cell), f"{cell['rows_per_second']['median']:,.0f}", f"{cell['step_ms']:.1f}",
               f"{cell['tflops']:.1f}", f"{100 * cell['share_of_peak']:.1f} %",
               "" if cell["peak_memory_gb"] is None else f"{cell['peak_memory_gb']:.1f}") for cell in figures["cells"]]
    phases = [(_name(cell), *(f"{cell['phases_ms'].get(phase, 0.0):.1f}" for phase in PHASES))
              for cell in figures["cells"] if cell["phases_ms"]]
    return "\n\n".join([
        f"bf16 peak: measured {peak['measured_tflops']:.1f} TFLOP/s, datasheet {peak['datasheet_tflops']}",
        results.text_table(("student, sequences, batch, way", "rows/s", "step ms", "TFLOP/s", "of peak", "GB"), speeds),
        results.text_table(("ms a step, waiting for each phase", *PHASES), phases),
        *(f"left out: {_name(name)}" for name in figures["left_out"])])


PHASES = ("data", "cache", "teacher", "student", "losses", "backward", "optimizer", "logging", "rest")


def _name(cell: Mapping[str, Any]) -> str:
    return ", ".join(str(cell[part]) for part in ("student", "sequences", "batch_size", "way"))


def _tell(cell: Mapping[str, Any], seconds: float) -> None:
    print(f"{seconds:5.0f} s  {_name(cell)}: {cell['rows_per_second']['median']:,.0f} rows/s, "
          f"{cell['step_ms']:.1f} ms a step", file=sys.stderr, flush=True)


def _peak(device: torch.device) -> dict[str, Any]:
    """What a large product of matrices in bf16 reaches (in float32 on a CPU), and what the datasheet says."""
    is_cuda = device.type == "cuda"
    size, repeats = (8192, 20) if is_cuda else (256, 3)
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16 if is_cuda else torch.float32)

    def seconds() -> float:
        if is_cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            factor @ factor
        if is_cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    seconds()
    best = min(seconds() for _ in range(3))
    name = torch.cuda.get_device_name(device) if is_cuda else ""
    return {"measured_tflops": repeats * 2 * size**3 / best / 1e12,
            "datasheet_tflops": next((value for part, value in DATASHEET_TFLOPS.items() if part in name), None)}


class _Bench:
    """A group's models and rows, ready to be trained on."""

    def __init__(self, group: Group, folder: Path, options: argparse.Namespace, device: torch.device,
                 peak: Mapping[str, Any]) -> None:
        self.group, self.device, self.peak = group, device, peak
        self.setting = QUICK if options.quick else group.setting
        self.folder = folder / f"{group.student}-{group.sequences}".replace(" ", "-")
        self.prepared = self._prepared(options)
        self.prepared.teaching.move_to(device)
        self.seen_sizes: set[int] = set()

    def measure(self, batch_size: int, way: str) -> dict[str, Any]:
        """The figures of one way with one batch size."""
        pace = self.group.batches[batch_size]
        if batch_size not in self.seen_sizes:
            self.seen_sizes.add(batch_size)
            self._minimal(self._one_of_each_shape(batch_size))  # whoever is first would pay for all new kernels
        watch = Stopwatch(self.device, warm_up=pace.warm_up, steps=pace.steps, stretches=pace.stretches,
                          limit_s=_LIMIT_S, goes_on=way != "minimal loop")
        profile, teacher = None, self.prepared.distilling.plan.teacher
        asked_before = teacher.rows_forwarded
        with watch.running():
            if way == "minimal loop":
                self._minimal(self._endless(batch_size))
            else:
                profile = self._ours(batch_size, way, pace)
        shapes = self._shapes(batch_size)
        seconds = [value / pace.steps for value in watch.seconds]
        flops = model_flops.mean_step(self.setting, shapes, asks_teacher=way != "later epochs")
        tflops = flops / statistics.median(seconds) / 1e12
        memory = watch.peak_memory_bytes
        return {
            "rows_per_second": results.spread([batch_size / value for value in seconds]),
            "step_ms": 1000 * statistics.median(seconds), "stretches_s": watch.seconds,
            "teacher_rows": teacher.rows_forwarded - asked_before,
            "padded_length": sum(length for _, length in shapes) / len(shapes),
            "tflops": tflops, "share_of_peak": tflops / self.peak["measured_tflops"],
            "peak_memory_gb": None if memory is None else memory / 1e9,
            "phases_ms": {} if profile is None else {name: numbers["median_ms"]
                                                     for name, numbers in profile.phases.items()},
        }

    def _prepared(self, options: argparse.Namespace) -> Prepared:
        from stillhouse.recipe import Recipe
        from stillhouse.recipe.prepare import prepare

        self._write(options)
        job = Job(self.folder, self.setting, warmup_steps=1, turn_steps=1, num_turns=1)
        return prepare(Recipe.from_dict(ours.recipe_values(job, "live")))

    def _write(self, options: argparse.Namespace) -> None:
        """Models, tokenizer and rows, where the recipe looks for them."""
        from stillhouse.tasks.pretrained import quiet_transformers

        count = self.group.num_rows + _NUM_VALIDATION
        given = [] if options.rows is None else read_rows(options.rows)
        words = texts.vocabulary([row["sentence"] for row in given], 500 if self.setting is QUICK else
                                 texts.BERT_VOCABULARY)
        if _SEQUENCES[self.group.sequences]:
            rows = texts.made_up_rows([MAX_LENGTH] * count, words)
        else:
            rows = texts.varied(given, count) if given else texts.made_up_rows(texts.short_lengths(count), words)
        write_rows(self.folder / "train.jsonl", rows[_NUM_VALIDATION:])
        write_rows(self.folder / "validation.jsonl", rows[:_NUM_VALIDATION])
        with quiet_transformers():
            vocab_size = texts.write_word_tokenizer(self.folder / "teacher", words)
            self.setting.teacher.model(vocab_size).save_pretrained(self.folder / "teacher")

    def _ours(self, batch_size: int, way: str, pace: Pace) -> StepProfile | None:
        """Train as a recipe's run does, until all is measured; the phases, if there was time for them."""
        from stillhouse.recipe.fitting import Phase, train
        from stillhouse.training import Profile

        measured: list[StepProfile] = []

        def stop(found: StepProfile) -> None:
            measured.append(found)
            raise StoppedError

        prepared, run_dir = self.prepared, self.folder / "run"
        shutil.rmtree(run_dir, ignore_errors=True)
        settings = prepared.recipe.training.model_copy(
            update={"batch_size": batch_size, "epochs": None, "steps": pace.num_steps + 10})
        profile = Profile(run_dir, pace.profiled, pace.warm_up + pace.steps * pace.stretches, tell=stop)
        plan = prepared.distilling.plan
        cache = self.folder / f"cache-{batch_size}"
        kind = "off" if way == "live teacher" else "disk"
        source, store = dataclasses.replace(prepared.distilling.cache, kind=kind, folder=cache).wrap(plan.teacher)
        try:
            train(dataclasses.replace(plan, teacher=source), settings, prepared.precision, prepared.ground,
                  Phase(run_dir / "checkpoints", run_dir / "events.jsonl", resume=False, profile=profile))
        except StoppedError:
            pass
        finally:
            if store is not None:
                store.close()
            if way == "later epochs":
                shutil.rmtree(cache)
        return measured[0] if measured else None

    def _minimal(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
        """The same in plain PyTorch, on the given batches."""
        (teacher,) = [member.model for member in self.prepared.teaching.members]
        student = minimal.Student(copy.deepcopy(self.prepared.student), self.setting).to(self.device).train()
        optimizer = minimal.adamw(student, self.setting.learning_rate)
        dtype = self.prepared.precision.autocast_dtype
        module: torch.nn.Module = teacher
        module.eval()
        for cpu_batch in batches:
            batch = {name: value.to(self.device, non_blocking=True) for name, value in cpu_batch.items()
                     if name != "labels"}
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                with torch.no_grad():
                    theirs = teacher(**batch, output_hidden_states=True)
                loss = minimal.distillation_loss(student, student(**batch), theirs, batch["attention_mask"],
                                                 self.setting)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()

    def _endless(self, batch_size: int) -> Iterator[Mapping[str, torch.Tensor]]:
        """The batches of the first epoch and its repetitions."""
        while True:
            yield from self._loader(batch_size)

    def _one_of_each_shape(self, batch_size: int) -> list[Mapping[str, torch.Tensor]]:
        batches = {batch["input_ids"].shape: batch for batch in self._loader(batch_size)}
        return list(batches.values())

    def _loader(self, batch_size: int) -> Any:
        return self.prepared.task.loader(self.prepared.distilling.reading.train, batch_size=batch_size, seed=0,
                                         shuffle=True)

    def _shapes(self, batch_size: int) -> list[tuple[int, int]]:
        """The (rows, length) of each full batch of an epoch."""
        lengths = self.prepared.distilling.reading.train.lengths
        return [(len(rows), int(lengths[rows].max())) for rows in self._loader(batch_size).batch_sampler
                if len(rows) == batch_size]


if __name__ == "__main__":
    main(sys.argv[1:])
