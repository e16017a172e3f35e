"""Runs one after another, a later one building on the student of an earlier one."""

from __future__ import annotations

from stillhouse.recipe.prepare import Loaded, Prepared, StandIns, prepare
from stillhouse.recipe.run import RunResult, Watch, run_one
from stillhouse.recipe.run_folder import RunFolder
from stillhouse.recipe.schema import Recipe


def prepared_stages(recipe: Recipe) -> list[Prepared]:
    """Every stage loaded and checked as far as it can be before the first has run.

    The untrained student of an earlier stage stands in for what it will be. Raises what `prepare` raises.
    """
    prepared: list[Prepared] = []
    for stage in recipe.stages:
        prepared.append(prepare(stage, _stand_ins(prepared)))
    return prepared


def _stand_ins(prepared: list[Prepared]) -> StandIns:
    return {f"{one.recipe.output}/student": Loaded(one.student, one.tokenizer) for one in prepared}


def run_stages(recipe: Recipe, *, resume: bool, overwrite: bool, watch: Watch) -> RunResult:
    """Run every stage into its own folder; finished ones are skipped with ``resume``."""
    for stage in recipe.stages:  # before anything is loaded: may all these folders be written?
        RunFolder(stage, resume=resume, overwrite=overwrite)
    prepared_stages(recipe)
    results = []
    for number, stage in enumerate(recipe.stages, start=1):
        watch.say(f"stage {number} of {len(recipe.stages)}: {stage.name}, in {stage.output}")
        results.append(run_one(stage, resume=resume, overwrite=overwrite, watch=watch))
    return RunResult(results[-1].output, results[-1].metrics, tuple(results))
