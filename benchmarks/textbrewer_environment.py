"""A virtual environment with the original in it, made once below ``benchmarks/.textbrewer``.

It has the torch and the transformers that the toolkit is measured with, so that only the loop differs.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from benchmarks.machine import REPOSITORY

ENVIRONMENT_DIR = REPOSITORY / "benchmarks" / ".textbrewer"
VERSION = "0.2.1.post1"
_PACKAGES = (f"textbrewer=={VERSION}", "torch", "transformers", "numpy", "tensorboard")


def python() -> Path:
    """Its interpreter, after making it if it is not there. Ends the program with a message if that fails."""
    interpreter, done = ENVIRONMENT_DIR / "bin" / "python", ENVIRONMENT_DIR / ".installed"
    if done.exists():
        return interpreter
    print(f"installing textbrewer {VERSION} with its own torch into {ENVIRONMENT_DIR} (once, some minutes)", flush=True)
    venv.create(ENVIRONMENT_DIR, with_pip=True, clear=True)
    (ENVIRONMENT_DIR / ".gitignore").write_text("*\n", encoding="utf-8")
    result = subprocess.run([interpreter, "-m", "pip", "install", "--quiet", "-c", REPOSITORY / "constraints.txt",
                             *_PACKAGES], check=False)
    if result.returncode:
        raise SystemExit("textbrewer could not be installed (see above); without it, run with --without original")
    done.touch()
    return interpreter
