"""Contenders in turns: who works when, and for how many steps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.machine import REPOSITORY
from benchmarks.turns import Contender, ContenderError, take_turns

PROGRAM = """
import sys, time
from pathlib import Path
import torch
from benchmarks.setting import QUICK, Job
from benchmarks.turns import Pace, until_stopped
name, log = sys.argv[1], Path(sys.argv[2])
weight = torch.nn.Parameter(torch.ones(()))
optimizer = torch.optim.SGD([weight], lr=0.1)
Pace(Job(Path(), QUICK, warmup_steps=3, turn_steps=2, num_turns=2)).start()
print("words of the training do not reach the conversation")
with until_stopped():
    try:
        while True:
            weight.grad = torch.ones(())
            time.sleep(0.01)
            with log.open("a") as file:
                file.write(name)
            optimizer.step()
    except Exception:
        raise SystemExit("being stopped looked like an error")
"""


def contender(name: str, log: Path, program: str = PROGRAM) -> Contender:
    return Contender(name, [sys.executable, "-c", program, name, str(log)], {"PYTHONPATH": str(REPOSITORY)})


def test_each_trains_its_warm_up_and_then_its_turns_in_alternating_order(tmp_path: Path) -> None:
    log = tmp_path / "steps"
    seconds = take_turns([contender("a", log), contender("b", log)], 2, tmp_path)
    assert log.read_text() == "aaa" "bbb" "aabb" "bbaa"
    assert [len(seconds[name]) for name in "ab"] == [2, 2]
    assert all(0.02 <= value < 30 for values in seconds.values() for value in values)


def test_a_contender_that_fails_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match=r"(?s)a ended with code 1; .*ZeroDivisionError"):
        take_turns([contender("a", tmp_path / "steps", "1 / 0")], 1, tmp_path)
