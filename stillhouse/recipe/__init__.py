"""Recipes: a file that says everything about a run, and what turns it into a run folder.

    schema.py      what a recipe may say         prepare.py    everything loaded and checked before training
    stages.py      the entry: one run or stages  seeds.py      the same run with several seeds
    run.py         one run, phase by phase       run_folder.py what lies where
    report_plan.py what a run would do

The rest are parts of these.
"""

from __future__ import annotations

from stillhouse.recipe.report_plan import plan
from stillhouse.recipe.run import RunResult
from stillhouse.recipe.schema import Recipe, load_recipe
from stillhouse.recipe.seeds import run_seeds
from stillhouse.recipe.stages import run

__all__ = ["Recipe", "RunResult", "load_recipe", "plan", "run", "run_seeds"]
