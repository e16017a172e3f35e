"""Precision and devices: what is promised, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stillhouse.adaptors import ModulePathAdaptor
from stillhouse.errors import PlanError
from stillhouse.losses import ForwardKL
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.teachers import LiveTeacher
from stillhouse.training import Bundle, precision, resolve_device, resolve_precision
from stillhouse.types import Batch, Progress

CPU = torch.device("cpu")


def test_auto_is_bf16_exactly_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, dtype in (("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16), ("avx2", None)):
        monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda name=capability: {name: True})
        assert resolve_precision("auto", CPU).autocast_dtype is dtype


def test_fp16_training_on_a_cpu_is_refused_with_the_remedy() -> None:
    with pytest.raises(PlanError, match="'bf16', 'fp32' or 'auto'"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize("name", ["cdua", "cuda"])
def test_a_device_that_is_not_here_is_said(name: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(PlanError, match=f"device '{name}'"):
        resolve_device(name)


def test_the_student_runs_in_bf16_and_its_loss_in_fp32() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(8, 5), nn.Linear(8, 5)
    seen: list[torch.dtype] = []
    student.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    plan = Distillation(student, ModulePathAdaptor(), LiveTeacher(teacher, ModulePathAdaptor()),
                        Objective([Term("kl", ForwardKL(2.0))]))
    bundle = Bundle(plan, resolve_precision("bf16", CPU))
    x = torch.randn(64, 8)
    batch = Batch((x,), (x,))
    teacher_says = plan.teacher.signals(batch, plan.needs()["default"].teacher)
    (value,) = bundle(batch, teacher_says, Progress(0, 1), {}).sums.values()
    assert seen == [torch.bfloat16] and value.dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        logits = student(x)
    exact = nn.functional.kl_div((logits.double() / 2).log_softmax(-1), (teacher(x).double() / 2).log_softmax(-1),
                                 reduction="sum", log_target=True) * 4
    assert value.detach().item() == pytest.approx(exact.detach().item(), rel=1e-4)
