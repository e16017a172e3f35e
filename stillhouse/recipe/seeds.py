"""The same recipe with several seeds, and how much they differ."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from stillhouse.errors import ConfigError
from stillhouse.recipe.pages import write_page
from stillhouse.recipe.run import RunResult, Watch
from stillhouse.recipe.schema import load_recipe
from stillhouse.recipe.stages import run
from stillhouse.recipe.summary import seeds_text
from stillhouse.sections.flat import flattened
from stillhouse.training import distributed
from stillhouse.whole_files import write_json


def run_seeds(path: str | Path, seeds: Sequence[int], overrides: Sequence[str] = (), *, resume: bool = False,
              overwrite: bool = False, allow_plugins: bool = False,
              console: Console | None = None) -> dict[int, RunResult]:
    """Run a recipe file once for each seed of the student's training, into ``OUTPUT/seed-N``.

    The teacher's own seed (``teacher.train.seed``) stays, so that it is trained once. ``OUTPUT/summary.json`` holds
    mean and sample standard deviation of every number of the results, ``OUTPUT/report.html`` shows them. Raises as
    `run` does.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds {list(seeds)}: give different whole numbers from 0, as in --seeds 0,1,2")
    load = partial(load_recipe, path, allow_plugins=allow_plugins)
    output = load(overrides).output
    recipes = {seed: load([*overrides, f"training.seed={seed}", f"output={output}/seed-{seed}"]) for seed in seeds}
    if any(stage.training.seed != seed for seed, recipe in recipes.items() for stage in recipe.stages):
        raise ConfigError("a stage sets training.seed itself, so --seeds cannot; take it out of the stage")
    results = {seed: run(recipe, resume=resume, overwrite=overwrite, console=console)
               for seed, recipe in recipes.items()}
    found = summary({seed: result.metrics for seed, result in results.items()})
    path = Path(output).expanduser() / "summary.json"
    page = None
    if distributed.is_main():
        write_json(path, found)
        page = write_page(path.parent)
    metric = results[seeds[0]].metrics["metric"]
    Watch(console or Console(stderr=True)).say(f"{seeds_text(found, metric)}\nsummary: {path}"
                                                 + (f"\nreport:  {page}" if page else ""))
    return results


def summary(metrics: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """``{"seeds": [..], "mean": {..}, "std": {..}}`` over the quality of teacher, student and contrast, by dotted name.

    The standard deviation is the sample's (n - 1), and 0 for a single seed.
    """
    quality = [flattened({name: one[name] for name in ("teacher", "student", "contrast", "retention")})
               for one in metrics.values()]
    names = [name for name in quality[0] if all(isinstance(one.get(name), (int, float)) for one in quality)]
    columns = {name: [float(one[name]) for one in quality] for name in names}
    return {
        "seeds": list(metrics),
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "std": {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()},
    }
