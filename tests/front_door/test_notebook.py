"""A distillation in a notebook shows how far it is, and its result as a table. A real kernel runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
CELLS = ["""\
import warnings
warnings.simplefilter("error")
import stillhouse
from tests.front_door.conftest import SHORT, make_teacher, make_tokenizer
from tests.recipe.conftest import make_rows
teacher, tokenizer = make_teacher(), make_tokenizer()
""", """\
result = stillhouse.distill(
    teacher=teacher, tokenizer=tokenizer, student={"keep": 1}, task="text-classification",
    train=list(make_rows("train")), validation=list(make_rows("validation")), label="colour", max_length=16,
    training={**SHORT, "epochs": 2, "log_every": 1}, output="run",
)""", "result"]
EXECUTE = """\
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, kernel_name="own", timeout=240).execute()
nbformat.write(notebook, sys.argv[1])
"""
"""In a process of its own, for the client leaves sockets open."""


@pytest.mark.runs
def test_a_notebook_shows_progress_and_the_result(tmp_path: Path) -> None:
    prepared, distilled, shown = executed(CELLS, tmp_path)
    assert prepared == []
    lines = "\n".join(text_of(output) for output in distilled)
    assert "student: step 12 of 12" in lines and "steps/s" in lines  # the live line, as it was in the end
    assert len(re.findall(r"student: step \d+ of 12", lines)) == 1  # written over and over, not again and again
    assert re.search(r"student: step 6: .*accuracy [\d.]+", lines)
    assert "\x1b[" not in lines
    (table,) = shown
    assert "<table>" in table["data"]["text/html"] and "student" in table["data"]["text/plain"]


def executed(cells: list[str], folder: Path) -> list[Any]:
    """The outputs of each cell, from a kernel that runs this interpreter, whatever kernels are installed."""
    place = folder / "jupyter" / "kernels" / "own"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps({
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "own", "language": "python"}))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells]),
                   folder / "notebook.ipynb")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_PATH": str(folder / "jupyter"),
                   "JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "IPYTHONDIR": str(folder / "ipython"),
                   "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", EXECUTE, "notebook.ipynb"], cwd=folder, env=environment, check=True,
                   capture_output=True)
    return [cell["outputs"] for cell in nbformat.read(folder / "notebook.ipynb", as_version=4)["cells"]]


def text_of(output: Any) -> str:
    return str(output.get("text") or output["data"]["text/plain"])
