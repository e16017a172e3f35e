"""Recipes: a file that says everything about a run, and what turns it into a run folder.

    schema.py      what a recipe may say         prepare.py    everything loaded and checked before training
    run.py         the run itself                run_folder.py what lies where
    stages.py      runs that build on another    seeds.py      the same run with several seeds
    report_plan.py what a run would do

The rest are parts of these.
"""

from __future__ import annotations

from stillhouse.recipe.report_plan import plan
from stillhouse.recipe.run import RunResult, run
from stillhouse.recipe.schema import Recipe, load_recipe
from stillhouse.recipe.seeds import run_seeds

__all__ = ["Recipe", "RunResult", "load_recipe", "plan", "run", "run_seeds"]
