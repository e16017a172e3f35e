"""Carry out a recipe: one run, or stages one after another, a later one building on an earlier one's student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from stillhouse.errors import ConfigError
from stillhouse.recipe import yaml_files
from stillhouse.recipe.prepare import Prepared, prepare
from stillhouse.recipe.run import RunResult, Watch, run_one
from stillhouse.recipe.run_folder import RunFolder, write_recipe
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.teaching import Loaded, StandIns
from stillhouse.training import Sink, distributed, resolve_device
from stillhouse.whole_files import write_json


def run(recipe: Recipe, *, resume: bool = False, overwrite: bool = False, console: Console | None = None,
        sinks: Sequence[Sink] = (), profile_steps: int | None = None) -> RunResult:
    """Carry out a recipe. Everything is loaded and checked before the run folder is made.

    Args:
        recipe: what to do; see `load_recipe`.
        resume: go on with what the output folder holds, whatever it is: nothing, a part of a run, or a finished one.
        overwrite: delete the run that the output folder holds.
        console: where progress is told; stderr without.
        sinks: receive the events of every training, beside the run folder's own files.
        profile_steps: measure where the time of so many steps of the student's training goes, into ``OUTPUT/profile``.

    Raises `UsageError` for what the recipe, the data or the models cannot do, `NonFiniteLossError`, `CheckpointError`
    and `StoreError`. After an error nothing half-written is left: no folder, or one that ``resume`` goes on with.
    """
    distributed.start(resolve_device(recipe.training.device))
    watch = Watch(console or Console(stderr=True), sinks, profile_steps)
    if recipe.stages:
        return run_stages(recipe, resume=resume, overwrite=overwrite, watch=watch)
    return run_one(recipe, resume=resume, overwrite=overwrite, watch=watch)


def run_stages(recipe: Recipe, *, resume: bool, overwrite: bool, watch: Watch) -> RunResult:
    """Run every stage into its own folder; finished ones are skipped with ``resume``.

    In the end the recipe's own folder holds ``recipe.yaml`` and a ``metrics.json`` with the results of each stage.
    """
    for stage in recipe.stages:  # before anything is loaded: may all these folders be written?
        RunFolder(stage, resume=resume, overwrite=overwrite)
    top = Path(recipe.output).expanduser()
    _require_no_other_run(top)
    for prepared in prepared_stages(recipe):
        watch.require_length(prepared)
    if distributed.is_main() and overwrite:
        (top / "metrics.json").unlink(missing_ok=True)
    results = []
    for number, stage in enumerate(recipe.stages, start=1):
        watch.say(f"stage {number} of {len(recipe.stages)}: {stage.name}, in {stage.output}")
        results.append(run_one(stage, resume=resume, overwrite=overwrite, watch=watch))
    if distributed.is_main():
        top.mkdir(parents=True, exist_ok=True)
        write_recipe(top, recipe)
        write_json(top / "metrics.json",
                   {"stages": {str(stage.name): result.metrics
                               for stage, result in zip(recipe.stages, results, strict=True)}})
    return RunResult(results[-1].output, results[-1].metrics, tuple(results))


def _require_no_other_run(top: Path) -> None:
    """Raise `ConfigError` if the folder of all stages is already that of a run without stages."""
    path = top / "recipe.yaml"
    found = yaml_files.read(path) if path.exists() else {"stages": []}
    if not isinstance(found, Mapping) or "stages" not in found:
        raise ConfigError(f"output: {top} holds the recipe.yaml of a run without stages; name another folder, or move "
                          "that away")


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
