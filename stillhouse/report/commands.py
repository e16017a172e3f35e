"""The command ``stillhouse report``. Nothing heavy is imported until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.interruption import interruptible


def report_command(
    runs: Annotated[list[Path], typer.Argument(
        metavar="RUN...", show_default=False,
        help="Run folders, or folders with runs inside, such as those of seeds or stages.")],
    output: Annotated[Path | None, typer.Option(
        "--output", metavar="FILE", show_default=False,
        help="The page; else report.html in the run, or in the current directory for several.")] = None,
) -> None:
    """Write an HTML page about a run, or about several beside each other; it needs no network and no other file."""
    with interruptible():
        from stillhouse.report.writing import write_report

        typer.echo(f"report: {write_report(runs, output)}")
