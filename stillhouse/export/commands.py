"""The command ``stillhouse export``. Nothing heavy is imported until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.errors import ConfigError, unknown_name
from stillhouse.interruption import interruptible

FORMATS = ("onnx",)


def export_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder, or a model's.")],
    task: Annotated[str | None, typer.Option(
        "--task", metavar="TASK", help="The task of a model that does not say it itself; a run knows its own.")] = None,
    file_format: Annotated[str, typer.Option("--format", metavar="onnx", help="What to write.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Write it with weights in 8 bits, too.")] = False,
    output: Annotated[Path | None, typer.Option(
        "--output", metavar="FOLDER", help="Where everything goes; onnx in the run's folder if not given.")] = None,
    opset: Annotated[int | None, typer.Option(
        "--opset", metavar="N", help="The version of the ONNX operators; torch's preference if not given.")] = None,
    rows: Annotated[int | None, typer.Option(
        "--rows", metavar="N", min=1, help="Judge on the first N rows of the test data; all if not given.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(
        "--push-to-hub", metavar="REPO_ID", help="Upload the student and its export to the Hugging Face hub.")] = None,
) -> None:
    """Write a student as ONNX: checked against torch, judged, and timed beside its teacher."""
    with interruptible():
        if file_format not in FORMATS:
            raise ConfigError(unknown_name("format", file_format, FORMATS))
        from stillhouse.export.packages import require_packages

        require_packages()
        from stillhouse.export.describing import exported_text
        from stillhouse.export.exporting import export_onnx

        exported = export_onnx(run, task=task, int8=int8, output=output, opset=opset, num_rows=rows,
                               push_to_hub=push_to_hub, tell=lambda text: typer.echo(text, err=True))
        typer.echo(exported_text(exported))
