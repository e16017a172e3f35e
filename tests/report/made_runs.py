"""Run folders made without training: what models say is drawn, and every number follows from it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

LABELS = ("billing", "delivery", "returns", "other")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NUM_ROWS = 120
WORDS = ["parcel", "invoice", "refund", "charge", "courier", "card", "address", "late", "broken", "missing", "twice",
         "today", "account", "window", "never", "please", "where", "is", "my", "the", "a", "has", "been"]
HOSTILE = "<script>document.title = 'taken'</script> <img src=x onerror=alert(1)> {{ 7 * 7 }} & $x_2$ \"quoted\" 日本語"

Row = dict[str, Any]


def make_run(folder: Path, task: str = "text-classification", *, labels: str = "single",
             names: Sequence[str] = LABELS, seed: int = 0, shape: str = "T3", with_teacher: bool = True,
             with_answers: bool = True, with_label: bool = True, by_batch: bool = True,
             parameters: int = 17_000_000, skill: float = 0.82) -> Path:
    """A finished run; the student says what the teacher says with the given probability."""
    folder.mkdir(parents=True)
    draw = random.Random(f"{task} {labels} {seed} {shape}")
    rows = make_rows(task, labels, names, draw, skill)
    for row in rows:
        row["teacher"] = row["teacher"] if with_teacher else None
        row["label"] = row["label"] if with_label else None
    if with_answers and task != "masked-lm":
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric, score = MEASURES.get((task, labels), ("f1", _nothing))
    scores = {who: score(rows, who) if with_label or task == "masked-lm" else 0.5 for who in ("teacher", "student")}
    (folder / "metrics.json").write_text(json.dumps(
        _metrics(task, metric, scores, names, with_teacher, by_batch, parameters, draw)))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(_recipe(folder, task, labels, seed, shape), sort_keys=False))
    for name, height in (("events.jsonl", 1.0), ("events.contrast.jsonl", 0.9)):
        (folder / name).write_text("".join(json.dumps(event) + "\n" for event in _events(metric, height, draw)))
    return folder


def add_export(run: Path) -> Row:
    """What ``stillhouse export --int8`` writes beside a run's student."""
    timed = [("teacher", "torch fp32", 90_879_536, 18.4), ("student", "torch fp32", 69_585_968, 9.6),
             ("student", "onnx fp32", 69_607_875, 4.1), ("student", "onnx int8", 17_667_250, 2.2)]
    found = {
        "format": "onnx", "metric": "accuracy", "rows": {"source": "the test data", "number": NUM_ROWS},
        "parity": {"max_difference": 1.43e-06, "tolerance": 0.001, "batches": [[1, 4]]},
        "metrics": {runtime: {"accuracy": 0.91 - 0.01 * i} for i, (_, runtime, _, _) in enumerate(timed[1:])},
        "latency": [{"model": model, "runtime": runtime, "size_bytes": size_bytes, "by_batch": {
            size: {"ms": ms * int(size), "rows_per_s": 1000 / ms} for size in ("1", "32")}}
            for model, runtime, size_bytes, ms in timed],
        "device": "cpu", "threads": 1, "notes": [],
    }
    (run / "onnx").mkdir()
    (run / "onnx" / "export.json").write_text(json.dumps(found))
    return found


def make_rows(task: str, labels: str, names: Sequence[str], draw: random.Random, skill: float) -> list[Row]:
    """What ``predictions.jsonl`` holds."""
    make = {"token-classification": _tagged, "question-answering": _answered, "multiple-choice": _chosen}.get(task)
    if make is None and (task == "sentence-embedding" or labels == "regression"):
        make = _scored
    if make is None:
        make = _several if labels == "multi" else _single
    return [{"row": row, **make(draw, names, skill, row)} for row in range(NUM_ROWS)]


def sentence(draw: random.Random, row: int) -> str:
    """A text; one of them tries to be markup, one is long."""
    if row == 3:
        return HOSTILE
    return " ".join(draw.choice(WORDS) for _ in range(300 if row == 7 else draw.randint(6, 18)))


def _said(draw: random.Random, names: Sequence[str], label: str) -> Row:
    sure = round(draw.uniform(1 / len(names) + 0.05, 1.0) ** 0.6, 4)
    rest = round((1 - sure) / (len(names) - 1), 4)
    return {"label": label, "confidence": sure,
            "probabilities": {name: sure if name == label else rest for name in [label, *names][:5]}}


def _pair(draw: random.Random, names: Sequence[str], skill: float, gold: str) -> tuple[str, str]:
    teacher = gold if draw.random() < 0.85 else draw.choice(names)
    return teacher, teacher if draw.random() < skill else draw.choice(names)


def _single(draw: random.Random, names: Sequence[str], skill: float, row: int) -> Row:
    gold = draw.choice(names)
    teacher, student = _pair(draw, names, 0.0 if row in (3, 7) else skill, gold)
    if row in (3, 7):  # these two are looked for on the page
        student = next(name for name in names if name != teacher)
    said = {"teacher": _said(draw, names, teacher), "student": _said(draw, names, student)}
    if row in (3, 7):
        said["teacher"]["confidence"] = said["student"]["confidence"] = 0.999
    return {"inputs": {"text": sentence(draw, row), "text_pair": None}, "label": gold, **said}


def _several(draw: random.Random, names: Sequence[str], skill: float, row: int) -> Row:
    gold = [name for name in names if draw.random() < 0.4]
    teacher = [name for name in names if (name in gold) is (draw.random() < 0.9)]
    student = [name for name in names if (name in teacher) is (draw.random() < skill)]
    said = {who: {"labels": found, "probabilities": {name: 0.9 if name in found else 0.1 for name in names[:5]}}
            for who, found in (("teacher", teacher), ("student", student))}
    return {"inputs": {"text": sentence(draw, row), "text_pair": None}, "label": gold, **said}


def _scored(draw: random.Random, names: Sequence[str], skill: float, row: int) -> Row:
    gold = round(draw.uniform(0, 5), 2)
    teacher = gold + draw.gauss(0, 0.3)
    return {"inputs": {"text": sentence(draw, row), "text_pair": sentence(draw, row + 1)}, "label": gold,
            "teacher": {"score": teacher}, "student": {"score": teacher + draw.gauss(0, 1 - skill)}}


def _tagged(draw: random.Random, names: Sequence[str], skill: float, row: int) -> Row:
    words = sentence(draw, row).split()
    gold = [draw.choice(TAGS) if draw.random() < 0.3 else "O" for _ in words]
    pairs = [_pair(draw, TAGS, skill, tag) for tag in gold]
    said = {who: {"tags": [pair[i] for pair in pairs], "confidence": [round(draw.uniform(0.5, 1), 4) for _ in words]}
            for i, who in enumerate(("teacher", "student"))}
    return {"inputs": {"words": words}, "label": gold, **said}


def _answered(draw: random.Random, names: Sequence[str], skill: float, row: int) -> Row:
    context = sentence(draw, row)
    words = context.split()
    gold = " ".join(words[:2])
    teacher = gold if draw.random() < 0.8 else " ".join(words[1:4])
    student = teacher if draw.random() < skill else words[-1]
    return {"inputs": {"question": f"What about {words[0]}?", "context": context}, "label": [gold, gold.upper()],
            "teacher": {"answer": teacher, "score": 7.1}, "student": {"answer": student, "score": 5.0}}


def _chosen(draw: random.Random, names: Sequence[str], skill: float, row: int) -> Row:
    choices = [sentence(draw, row + 1 + i) for i in range(3)]
    gold = draw.randrange(3)
    teacher, student = (int(text) for text in _pair(draw, "012", skill, str(gold)))
    said = {who: {"choice": choice, "confidence": round(draw.uniform(0.4, 1), 4), "probabilities": [0.3, 0.3, 0.4]}
            for who, choice in (("teacher", teacher), ("student", student))}
    return {"inputs": {"question": sentence(draw, row), "choices": choices}, "label": gold, **said}


def _share(key: str) -> Callable[[list[Row], str], float]:
    return lambda rows, who: sum(row[who][key] == row["label"] for row in rows if row[who]) / len(rows)


def _nothing(rows: list[Row], who: str) -> float:
    return {"teacher": 0.9, "student": 0.8}[who]


MEASURES: dict[tuple[str, str], tuple[str, Callable[[list[Row], str], float]]] = {
    ("text-classification", "single"): ("accuracy", _share("label")),
    ("text-classification", "multi"): ("micro_f1", _nothing),
    ("text-classification", "regression"): ("spearman", _nothing),
    ("multiple-choice", "single"): ("accuracy", _share("choice")),
    ("masked-lm", "single"): ("accuracy", _nothing),
    ("sentence-embedding", "single"): ("spearman", _nothing),
}


def _metrics(task: str, metric: str, scores: dict[str, float], names: Sequence[str], with_teacher: bool,
             by_batch: bool, parameters: int, draw: random.Random) -> Row:
    teacher = {metric: scores["teacher"], "validation": {metric: scores["teacher"]},
               **_speed(22_000_000, by_batch, draw)} if with_teacher else None
    student = {metric: scores["student"], "validation": {metric: scores["student"]},
               **_speed(parameters, by_batch, draw), "agreement_with_teacher": 0.8, "steps": 300, "best_step": 200,
               "stopped": "done"}
    return {
        "task": task, "metric": metric, "split": "test", "rows": {"train": 1000, "validation": 90, "test": NUM_ROWS},
        "label_names": list(names) if task == "text-classification" else list(TAGS) if "token" in task else [],
        "teacher": teacher, "student": student,
        "retention": scores["student"] / scores["teacher"] if with_teacher else None,
        "contrast": {metric: 0.9 * scores["student"], "starts_from": "scratch", "steps": 300, "best_step": 300},
        "teacher_forwards": {"distillation": 1000, "evaluation": 210}, "device": "cpu", "precision": "fp32",
        "versions": {"stillhouse": "0.1.0", "torch": "2.13.0"},
        "wall_time_s": {"teacher_training": 61.0, "distillation": 92.1, "measuring": 5.0, "total": 158.1},
    }


def _speed(parameters: int, by_batch: bool, draw: random.Random) -> Row:
    latency_ms = parameters / 1.7e6 * draw.uniform(0.95, 1.05)
    batches = {str(size): {"ms": round(latency_ms * size**0.7, 3),
                           "rows_per_s": round(1000 * size**0.3 / latency_ms, 1)} for size in (1, 8, 32)}
    return {"parameters": parameters, "size_bytes": 4 * parameters, "latency_ms": round(latency_ms, 3),
            "throughput_rows_per_s": batches["32"]["rows_per_s"],
            **({"latency_by_batch": batches} if by_batch else {})}


def _recipe(folder: Path, task: str, labels: str, seed: int, shape: str) -> Row:
    data: Row = {"train": "data/train.jsonl", "validation": "data/validation.jsonl", "test": "data/test.jsonl",
                 "max_length": 64}
    if task == "text-classification":
        data["labels"] = labels
    return {
        "plugins": [], "task": task, "teacher": {"model": "models/teacher"}, "student": {"shape": shape}, "data": data,
        "distillation": {"temperature": 8.0, "loss_weight": 1.0, "matches": [
            {"layers": "uniform", "losses": ["hidden_mse", "nst"], "weight": 1.0}]},
        "training": {"epochs": 6.0, "batch_size": 32, "learning_rate": 0.001, "seed": seed},
        "cache": "auto", "contrast": "no_teacher", "output": str(folder),
    }


def _events(metric: str, height: float, draw: random.Random) -> list[Row]:
    events: list[Row] = [{"event": "started", "step": 0, "total_steps": 300}]
    for step in range(20, 301, 20):
        parts = {f"{name} {layer}-{layer // 2}": math.exp(-step / 150) * size * draw.uniform(0.9, 1.1)
                 for name, size in (("hidden_mse", 0.3), ("nst", 0.04)) for layer in (0, 2, 4)}
        parts["kd"] = 2.5 * math.exp(-step / 90) + 0.05
        events.append({"event": "step", "step": step, "epoch": step // 60, "loss": sum(parts.values()), "parts": parts,
                       "learning_rate": 1e-3, "gradient_norm": 1.0, "steps_per_s": 4.0})
        if step % 60 == 0:
            score = height * 0.8 * (1 - math.exp(-step / 80)) + draw.uniform(-0.01, 0.01)
            events.append({"event": "evaluation", "step": step, "metrics": {metric: score}, "best": True,
                           "seconds_s": 0.3})
    return [*events, {"event": "finished", "step": 300, "reason": "done", "seconds_s": 92.0}]
