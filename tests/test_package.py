"""The public surface, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import stillhouse


def test_all_names_exist_and_no_others_are_public() -> None:
    homes = {name for names in stillhouse._HOMES.values() for name in names} | {"__version__"}
    assert set(stillhouse.__all__) == homes
    assert len(stillhouse.__all__) == len(set(stillhouse.__all__))
    for name in stillhouse.__all__:
        assert getattr(stillhouse, name) is not None


def test_importing_costs_little_and_drags_in_nothing_heavy() -> None:
    program = (
        "import torch, sys, time; start = time.process_time(); import stillhouse; "
        "print(time.process_time() - start); "
        "print([m for m in ('transformers', 'datasets', 'matplotlib', 'accelerate', 'pydantic') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = run.stdout.split("\n")
    assert float(lines[0]) < 0.3
    assert lines[1] == "[]"


def test_the_distillers_need_no_transformers() -> None:
    program = ("import sys; from stillhouse import GeneralDistiller, fit, LiveTeacher; "
               "print([m for m in ('transformers', 'datasets', 'matplotlib', 'lmdb') if m in sys.modules])")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
