"""FLOPs by formula are those that a counter finds in the models and losses themselves."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import model_flops
from benchmarks.contenders import minimal
from benchmarks.setting import QUICK, Shape

ROWS, LENGTH = 3, 7
SHAPE = Shape(2, 16, 2, 40)


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 20, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def eager(shape: Shape) -> torch.nn.Module:
    model = shape.model(20)
    model.set_attn_implementation("eager")
    return model


def test_a_forward_has_the_products_that_are_counted() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        eager(SHAPE)(**inputs())
    assert model_flops.forward(SHAPE, ROWS, LENGTH) == counter.get_total_flops()


@pytest.mark.parametrize("width", [16, 8])
def test_a_step_has_the_products_that_are_counted(width: int) -> None:
    setting = dataclasses.replace(QUICK, teacher=SHAPE, student=Shape(1, width, 2, 24))
    student = minimal.Student(eager(setting.student), setting)
    teacher = eager(setting.teacher)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            theirs = teacher(**inputs(), output_hidden_states=True)
        minimal.distillation_loss(student, student(**inputs()), theirs, inputs()["attention_mask"], setting).backward()
    counted = counter.get_total_flops()
    if width == setting.teacher.width:  # the minimal loop projects all the same
        counted -= 3 * len(setting.pairs) * 2 * ROWS * LENGTH * width**2
    assert model_flops.step(setting, ROWS, LENGTH, asks_teacher=True) == pytest.approx(counted, rel=0.01)


def test_an_answered_teacher_costs_nothing() -> None:
    asked, answered = (model_flops.step(QUICK, ROWS, LENGTH, asks_teacher=asks) for asks in (True, False))
    assert asked - answered == model_flops.forward(QUICK.teacher, ROWS, LENGTH)
    mean = model_flops.mean_step(QUICK, [(ROWS, LENGTH), (ROWS, LENGTH + 2)], asks_teacher=False)
    assert answered < mean < model_flops.step(QUICK, ROWS, LENGTH + 2, asks_teacher=False)
