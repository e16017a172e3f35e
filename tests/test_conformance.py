"""The golden cases of the paper's API, where they lie beside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CASES = ROOT.parent / "shared" / "conformance"
HELD = (
    "case_01_kd_losses", "case_02_hidden_losses", "case_07_weight_schedulers", "case_09_config", "case_12_trajectory",
    "case_13_checkpoint_schedule", "case_17_multi_teacher", "case_20_data_utils", "case_21_display_parameters",
    "case_22_basic_trainer", "fix_02_one_mask_many_logits", "fix_03_zero_weight_and_empty_losses", "fix_05_gradients",
    "fix_06_data_utils_edges", "fix_10_loud_errors",
)


@pytest.mark.skipif(not CASES.is_dir(), reason="the golden cases are not beside this checkout")
@pytest.mark.parametrize("name", HELD)
def test_golden_case(name: str) -> None:
    environment = os.environ | {"TB_MODULE": "stillhouse.textbrewer", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                                "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "ignore", f"{name}.py"]
    run = subprocess.run(command, cwd=CASES, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
