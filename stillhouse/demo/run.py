"""The demo: a real teacher on real text, two students, and the same small student without a teacher.

Data, recipes, the teacher and every run land in one folder, so that each step can be looked at and done again by hand.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from stillhouse import BasicTrainer, TrainingConfig
from stillhouse.demo.harvest import harvest, write
from stillhouse.demo.minilm import pretrained_folder
from stillhouse.errors import ConfigError
from stillhouse.recipe import RunResult, load_recipe, run
from stillhouse.recipe.optimization import adamw, learning_rate_schedule
from stillhouse.tasks import TextClassification, TextClassificationData
from stillhouse.tasks.pretrained import save_pretrained
from stillhouse.training import resolve_device
from stillhouse.training.randomness import seed_everything

MAX_PER_CLASS = 500  # sized for about six minutes on two cores
TEACHER_EPOCHS, TEACHER_LEARNING_RATE, BATCH_SIZE = 3, 2e-4, 32
_MARK = ".stillhouse-demo"  # what makes a folder the demo's own, to be replaced by the next one
STUDENTS: dict[str, dict[str, Any]] = {
    "T3": {"student": {"shape": "T3"}, "training": {"epochs": 3, "learning_rate": 4e-4}},
    "T4-tiny": {"student": {"shape": "T4-tiny"}, "training": {"epochs": 6, "learning_rate": 1e-3},
                "contrast": "no_teacher"},
}


class TrainedTeacher(NamedTuple):
    """Where the teacher is, and how long its training took."""

    folder: Path
    seconds_s: float


def main(folder: Path, console: Console | None = None) -> dict[str, RunResult]:
    """Run the demo into ``folder``, replacing an earlier one, and print its table; the results by student.

    Raises `ConfigError` if the demo's pre-trained model is not installed, or if the folder holds anything else.
    """
    console = console or Console()
    base = pretrained_folder()
    make_folder(folder)
    files = harvest_data(folder / "data", console)
    teacher = train_teacher(base, files, folder, console)
    results = {}
    for name, choices in STUDENTS.items():
        path = write_recipe(folder / f"{name}.yaml", recipe_of(teacher.folder, files, choices, folder / name))
        console.rule(f"student {name}: stillhouse run {path}")
        results[name] = run(load_recipe(path), console=console)
    console.print(table_of(results, teacher))
    console.print(f"Everything is in {folder}: recipes, the teacher, and a run folder for each student with its "
                  "metrics.json, events.jsonl and student/, which from_pretrained loads.", soft_wrap=True)
    return results


def make_folder(folder: Path) -> None:
    """An empty folder for the demo; an earlier demo's is emptied, any other that holds something is refused."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise ConfigError(f"{folder} holds other things than a demo; give another folder with --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()


def harvest_data(folder: Path, console: Console) -> Mapping[str, Path]:
    """Collect the docstrings of what is installed and write them as JSON lines."""
    console.rule("data: which library does this docstring come from?")
    found = harvest(max_per_class=MAX_PER_CLASS)
    files = write(found, folder)
    counts = {split: len(found.rows(split)) for split in ("train", "validation", "test")}
    names = ", ".join(found.class_names)
    console.print(f"{len(found.class_names)} libraries ({names}); rows: {counts}", soft_wrap=True)
    example = found.test[0]
    console.print(f"for example, {example['library']!r}: {example['text']}", markup=False, soft_wrap=True)
    return files


def train_teacher(base: Path, files: Mapping[str, Path], folder: Path, console: Console) -> TrainedTeacher:
    """Fine-tune the pre-trained model with `BasicTrainer`, as a user's own script would."""
    console.rule("teacher: MiniLM, fine-tuned with BasicTrainer")
    started = time.perf_counter()
    task = TextClassification(TextClassificationData.of(**data_section(files)))
    task.load()
    seed_everything(0)
    model: Any = task.load_model(str(base))
    tokenizer = task.load_tokenizer(str(base))
    model.to(resolve_device("auto"))
    loader = task.loader(task.encode("train", tokenizer), batch_size=BATCH_SIZE, seed=0, shuffle=True)
    validation = task.encode("validation", tokenizer)

    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"losses": outputs.loss}

    def evaluate(model: Any, step: int) -> None:
        metrics = task.evaluate(model, validation).metrics
        console.print(f"step {step}: validation accuracy {metrics['accuracy']:.4f}", highlight=False)

    config = TrainingConfig(output_dir=folder / "teacher-checkpoints", precision="auto", ckpt_frequency=1)
    optimizer = adamw([model], TEACHER_LEARNING_RATE, weight_decay=0.01)
    steps = TEACHER_EPOCHS * len(loader)
    schedule = {"name": "linear", "warmup_steps": steps // 10, "total_steps": steps}
    with BasicTrainer(config, model, adaptor) as trainer:
        trainer.train(optimizer, loader, num_epochs=TEACHER_EPOCHS, scheduler_class=learning_rate_schedule,
                      scheduler_args=schedule, max_grad_norm=1.0, callback=evaluate)
    shutil.rmtree(folder / "teacher-checkpoints")
    save_pretrained(model, tokenizer, folder / "teacher")
    return TrainedTeacher(folder / "teacher", time.perf_counter() - started)


def data_section(files: Mapping[str, Path]) -> dict[str, Any]:
    """The data of the recipes."""
    splits = {split: str(files[split]) for split in ("train", "validation", "test")}
    return splits | {"text": "text", "label": "library", "label_names": str(files["label_names"]), "max_length": 64}


def recipe_of(teacher: Path, files: Mapping[str, Path], choices: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """One student's recipe."""
    return {
        "task": "text-classification",
        "teacher": {"model": str(teacher)},
        "data": data_section(files),
        "distillation": {"temperature": 8, "matches": {"layers": "uniform", "losses": ["hidden_mse", "nst"]}},
        "output": str(output),
        **choices,
    }


def write_recipe(path: Path, recipe: Mapping[str, Any]) -> Path:
    """Write a recipe file."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe)), sort_keys=False), encoding="utf-8")
    return path


def table_of(results: Mapping[str, RunResult], teacher: TrainedTeacher) -> Table:
    """Accuracy, retention, size, latency and training time of all models; every number is from a ``metrics.json``."""
    table = Table(title="Which library does this docstring come from? (test rows)")
    for column in ("model", "accuracy", "retention", "parameters", "size", "one row", "training"):
        table.add_column(column, justify="left" if column == "model" else "right")
    metrics = {name: result.metrics for name, result in results.items()}
    first = next(iter(metrics.values()))
    best = first["teacher"]["accuracy"]

    def add(name: str, accuracy: float, of: Mapping[str, Any], seconds_s: float) -> None:
        table.add_row(name, f"{accuracy:.3f}", f"{accuracy / best:.1%}", f"{of['parameters'] / 1e6:.1f} M",
                      f"{of['size_bytes'] / 1e6:.0f} MB", f"{of['latency_ms']:.1f} ms", f"{seconds_s:.0f} s")

    add("teacher (MiniLM)", best, first["teacher"], teacher.seconds_s)
    for name, of in metrics.items():
        add(f"{name}, distilled", of["student"]["accuracy"], of["student"], of["wall_time_s"]["distillation"])
        if of["contrast"] is not None:
            add(f"{name}, no teacher", of["contrast"]["accuracy"], of["student"], of["wall_time_s"]["contrast"])
    return table
