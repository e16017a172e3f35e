"""The command line. What a room of its own does has its command there, in ``commands.py``; here are the others.

Nothing heavy is imported until a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse import __version__
from stillhouse.cache_care.commands import cache_app
from stillhouse.errors import ConfigError, StillhouseError
from stillhouse.export.commands import export_command
from stillhouse.finished.commands import evaluate_command, predict_command
from stillhouse.interruption import InterruptedByUserError, interruptible
from stillhouse.report.commands import report_command
from stillhouse.setting_up.commands import doctor_command, init_command

UNEXPECTED_EXIT_CODE = 1
USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
_PROFILE_STEPS = 20
_READ_A_RECIPE = ("run", "plan")
"""The commands with --set PATH=VALUE."""

app = typer.Typer(name="stillhouse", add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False,
                  rich_markup_mode=None, help="Distil a large language model into a small one.")
app.command("init")(init_command)  # the order is that of --help, and of a user's way

RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Option(
    "--set", metavar="PATH=VALUE", help="Change a value of the recipe, as in training.epochs=3; may be repeated.")]

AllowPlugins = Annotated[bool, typer.Option(
    "--allow-plugins", help="Run the Python files that the recipe names as plugins.")]
Stage = Annotated[str | None, typer.Option(
    "--stage", metavar="NAME", help="Only this stage of the recipe, in the folder that it has in the whole.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stillhouse {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version,
                                          help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; ``main`` looks for --debug itself, so that it may stand anywhere."""


@app.command("run")
def run_command(
    recipe: RecipeFile,
    overrides: Overrides = None,
    seeds: Annotated[str | None, typer.Option(
        metavar="0,1,2", help="Run once for each seed, into OUTPUT/seed-N, with a summary.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in the output folder.")] = False,
    stage: Stage = None,
    allow_plugins: AllowPlugins = False,
    profile: Annotated[bool, typer.Option(
        "--profile", help="Measure where the time of 20 steps of the student goes, into OUTPUT/profile.")] = False,
    profile_steps: Annotated[int | None, typer.Option(
        metavar="N", min=1, help="Measure so many steps; implies --profile.")] = None,
) -> None:
    """Train a student as a recipe says, into a run folder."""
    with interruptible("; run again with --resume to go on"):
        with _imports():
            from stillhouse.recipe import load_recipe, run, run_seeds

        changes = overrides or []
        measured = profile_steps or (_PROFILE_STEPS if profile else None)
        if seeds is None:
            run(load_recipe(recipe, changes, allow_plugins=allow_plugins, stage=stage), resume=resume,
                overwrite=overwrite, profile_steps=measured)
        elif measured is not None:
            raise ConfigError("--profile measures one run; leave --seeds out")
        elif stage is not None:
            raise ConfigError("--seeds runs all stages; leave --stage out, or run the stage once for each seed with "
                              "--set training.seed=N --set output=FOLDER-N")
        else:
            run_seeds(recipe, _numbers(seeds), changes, resume=resume, overwrite=overwrite,
                      allow_plugins=allow_plugins)


@app.command("plan")
def plan_command(recipe: RecipeFile, overrides: Overrides = None, stage: Stage = None,
                 allow_plugins: AllowPlugins = False) -> None:
    """Say what a recipe would do, without doing it: models, sizes, steps, storage."""
    with interruptible():
        with _imports():
            from stillhouse.recipe import load_recipe, plan

        typer.echo(plan(load_recipe(recipe, overrides or [], allow_plugins=allow_plugins, stage=stage)))


app.command("report")(report_command)
app.command("predict")(predict_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.add_typer(cache_app, name="cache")
app.command("doctor")(doctor_command)


@app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of recipes, with which editors complete and check them."""
    with interruptible():
        from stillhouse.recipe.json_schema import schema_text

        typer.echo(schema_text(), nl=False)


@app.command("inspect")
def inspect_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder, a hub id, or a run folder.")],
    depth: Annotated[int, typer.Option(help="Levels of modules below the model.")] = 2,
    beside: Annotated[str | None, typer.Option(metavar="STUDENT", help="The student, if MODEL is its teacher.")] = None,
    sequence_length: Annotated[int, typer.Option(help="Tokens in the row that FLOPs are counted for.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how large a model is: parameters, memory, FLOPs per token."""
    with interruptible():
        from stillhouse.inspection import inspect_models

        table = inspect_models(model, beside, depth=depth, sequence_length=sequence_length)
        typer.echo(table.to_json() if as_json else str(table))


@app.command("demo")
def demo_command(
    output: Annotated[str, typer.Option("--output", metavar="FOLDER", help="Where everything goes.")] = "runs/demo",
) -> None:
    """Distil a real teacher on real text in a few minutes."""
    with interruptible():
        from stillhouse.demo.run import main as demo

        demo(Path(output))


@contextmanager
def _imports() -> Iterator[None]:
    """For the import of torch and transformers, a fifth of whose time goes into looking for garbage among new modules.

    What is there at the end stays, so that nothing looks at it again later.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}: give whole numbers with commas between, as in --seeds 0,1,2") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for what the user can mend, 130 when interrupted, 1 for the rest."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _run(words)
        except StillhouseError as error:
            if debug:
                raise
            print(f"error: {error}", file=sys.stderr)
            return USAGE_EXIT_CODE
        except InterruptedByUserError as error:
            if debug:
                raise
            print(error, file=sys.stderr)
            return INTERRUPTED_EXIT_CODE
        except Exception as error:
            if debug:
                raise
            print(f"unexpected error: {type(error).__name__}: {' '.join(str(error).split())} "
                  "(run with --debug for the traceback)", file=sys.stderr)
            return UNEXPECTED_EXIT_CODE


def _run(words: list[str]) -> int:
    from typer.main import get_command, get_group

    try:
        get_command(app).main(args=words, prog_name="stillhouse")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
        command, *others = words or [""]
        if code == USAGE_EXIT_CODE and command in _READ_A_RECIPE:
            known = {option for parameter in get_group(app).commands[command].params for option in parameter.opts}
            _tell_of_keys(others, known)
        return code
    return 0


def _tell_of_keys(words: Sequence[str], known: Collection[str]) -> None:
    """Say how to set what someone took for an option, after the message that there is no such option."""
    given = (word.partition("=")[0] for word in words if word.startswith("--"))
    unknown = next((option for option in given if option not in known), None)
    if unknown is not None:
        from stillhouse.recipe.places import place_of

        place = place_of(unknown.strip("-").replace("-", "_"))
        hint = f"--set {place}=VALUE" if place else "--set PATH=VALUE, as in --set training.epochs=3"
        print(f"To change a value of the recipe, write {hint}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
