"""The golden cases of the paper's API, where they lie beside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CASES = ROOT.parent / "shared" / "conformance"
NAMES = sorted(path.stem for path in CASES.glob("*_*.py") if path.stem.startswith(("case_", "fix_")))


def test_the_cases_are_all_there() -> None:
    if CASES.is_dir():
        assert len(NAMES) == 24


@pytest.mark.skipif(not CASES.is_dir(), reason="the golden cases are not beside this checkout")
@pytest.mark.parametrize("name", NAMES)
def test_golden_case(name: str) -> None:
    environment = os.environ | {"TB_MODULE": "stillhouse.textbrewer", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                                "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "ignore", f"{name}.py"]
    run = subprocess.run(command, cwd=CASES, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
