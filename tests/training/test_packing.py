"""Nested states go to safetensors and JSON and come back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.errors import CheckpointError
from stillhouse.training import TensorBoardSink, randomness
from stillhouse.training.events import Evaluated, StepLogged
from stillhouse.training.packing import load_nested, save_nested


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_structure_types_and_keys_survive(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    number = torch.tensor(1, dtype=torch.int8)
    state = {"a": [1, 2.5, None, True, "x"], 3: (shared, shared[:2]), "empty": {}, "b": number}
    save_nested(state, tmp_path, "state")
    assert same(load_nested(tmp_path, "state"), state)


def test_an_optimizer_comes_back(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 0.5}])
    parameter.grad = torch.ones(3)
    optimizer.step()
    save_nested(optimizer.state_dict(), tmp_path, "state")
    assert same(load_nested(tmp_path, "state"), optimizer.state_dict())


def test_what_only_pickle_could_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state\.f is a function"):
        save_nested({"f": lambda: None}, tmp_path, "state")


def test_the_random_state_comes_back() -> None:
    randomness.seed_everything(3)
    state = randomness.capture()
    drawn = [torch.rand(2).tolist(), np.random.rand(2).tolist()]
    randomness.restore(state)
    assert drawn == [torch.rand(2).tolist(), np.random.rand(2).tolist()]


def test_tensorboard_gets_losses_and_metrics(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path)
    sink.emit(StepLogged(10, loss=0.5, parts={"unweighted_kd_loss": 0.25}, learning_rate=0.1))
    sink.emit(Evaluated(10, metrics={"accuracy": 0.75}))
    sink.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    values = {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]}
    assert values == pytest.approx({"scalar/total_loss": 0.5, "scalar/learning_rate": 0.1,
                                    "scalar/unweighted_kd_loss": 0.25, "evaluation/accuracy": 0.75})
