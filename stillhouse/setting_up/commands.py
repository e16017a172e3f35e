"""The commands ``stillhouse init`` and ``stillhouse doctor``. Nothing heavy is imported until one runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from stillhouse.errors import ConfigError
from stillhouse.interruption import interruptible
from stillhouse.whole_files import write_text

PROBLEM_EXIT_CODE = 1


def init_command(
    file: Annotated[str | None, typer.Argument(
        metavar="DATA", show_default=False, help="The training data: a file, a folder or a hub id.")] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="The same as a flag.")] = None,
    text: Annotated[list[str] | None, typer.Option(
        metavar="COLUMN", help="The column with the text; of a pair, of question and context, or of several, "
        "give them with commas between, or the flag twice.")] = None,
    label: Annotated[str | None, typer.Option(
        metavar="COLUMN", help="The column with the label, tags, answers or score.")] = None,
    teacher: Annotated[str | None, typer.Option(
        metavar="MODEL", help="A folder, a hub id or package:NAME/FOLDER.")] = None,
    student: Annotated[str | None, typer.Option(
        metavar="SHAPE", help="T6, T3, T3-small, T4-tiny, T12-nano, half, a number of layers, BiGRU, BiLSTM, CNN or a "
        "model's folder.")] = None,
    task: Annotated[str | None, typer.Option(
        metavar="TASK", help="text-classification, token-classification, question-answering or sentence-embedding; "
        "else what the columns look like.")] = None,
    validation: Annotated[str | None, typer.Option(metavar="DATA", help="The validation data.")] = None,
    test: Annotated[str | None, typer.Option(metavar="DATA", help="The test data.")] = None,
    output: Annotated[str | None, typer.Option(metavar="FOLDER", help="The run folder that the recipe names.")] = None,
    recipe: Annotated[Path, typer.Option(metavar="FILE", help="The recipe to write.")] = Path("recipe.yaml"),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take what the data suggests.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recipe that is there.")] = False,
) -> None:
    """Write a recipe for your own data: asks five questions, or takes flags."""
    with interruptible("; nothing was written"):
        if file is not None and data is not None:
            raise ConfigError(f"the data is given twice, as {file!r} and --data {data!r}; give one")
        if recipe.is_dir():
            raise ConfigError(f"--recipe {recipe}: that is a folder; name a file, as in --recipe {recipe}/recipe.yaml")
        if recipe.exists() and not overwrite:
            raise ConfigError(f"{recipe} is there already; give --overwrite to replace it, or --recipe FILE to write "
                              "another")
        if not recipe.absolute().parent.is_dir():
            raise ConfigError(f"--recipe {recipe}: there is no folder {recipe.absolute().parent}; make it first, "
                              "or name a file in another")
        from stillhouse.setting_up.new_recipe import Flags, new_recipe
        from stillhouse.setting_up.questions import NoTerminal, Person, Suggestions

        is_asked = sys.stdin.isatty() and not yes
        answerer = Suggestions() if yes else Person() if is_asked else NoTerminal()
        made = new_recipe(Flags(file or data, text or (), label, teacher, student, task, validation, test, output),
                          answerer, str(recipe))
        write_text(recipe, made.text)
        typer.echo(made.summary)
        for note in made.notes:
            typer.echo(f"note: {note}")
        typer.echo(f"wrote {recipe}; next:\n  stillhouse plan {recipe}\n  stillhouse run {recipe}")


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Also see whether the model hub can be reached.")] = False,
) -> None:
    """Look at what is around: versions, devices, the cache, free disk; the exit code is 1 if something cannot work."""
    with interruptible():
        from stillhouse.setting_up.doctor import FAIL, examined

        findings = examined(online=online)
        if as_json:
            typer.echo(json.dumps({"findings": [finding.as_dict() for finding in findings]}, indent=2))
        else:
            width = max(len(finding.what) for finding in findings)
            for finding in findings:
                typer.echo(f"{finding.level:<4}  {finding.what:<{width}}  {finding.text}")
        if any(finding.level == FAIL for finding in findings):
            raise typer.Exit(PROBLEM_EXIT_CODE)
