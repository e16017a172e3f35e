"""Precision and devices: what is promised, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.adaptors import ModulePathAdaptor
from stillhouse.errors import PlanError
from stillhouse.losses import ForwardKL
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.teachers import LiveTeacher
from stillhouse.training import (
    Bundle,
    EverySteps,
    FitOptions,
    LoaderSource,
    fit,
    precision,
    resolve_device,
    resolve_precision,
)
from stillhouse.training import checkpoint as checkpoints
from stillhouse.training.precision import Precision
from stillhouse.types import Batch, Progress

from .resumable import StopAt

CPU = torch.device("cpu")


def test_auto_is_bf16_exactly_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, dtype in (("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16), ("avx2", None)):
        monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda name=capability: {name: True})
        assert resolve_precision("auto", CPU).autocast_dtype is dtype


def test_fp16_training_on_a_cpu_is_refused_with_the_remedy() -> None:
    with pytest.raises(PlanError, match="'bf16', 'fp32' or 'auto'"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize("name", ["cdua", "mps", "cuda", "cuda:7"])
def test_a_device_that_is_not_here_is_said(name: str) -> None:
    if name.startswith("cuda") and torch.cuda.is_available():
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


def linear_plan(scale: float = 1.0) -> Distillation:
    torch.manual_seed(0)
    student, teacher = nn.Linear(8, 5), nn.Linear(8, 5)
    with torch.no_grad():
        teacher.weight.mul_(3)
        student.weight.mul_(scale)
    return Distillation(student, ModulePathAdaptor(), LiveTeacher(teacher, ModulePathAdaptor()),
                        Objective([Term("kl", ForwardKL(2.0))]))


def divergence(plan: Distillation, x: torch.Tensor) -> float:
    """KL(teacher || student) in float64, without the toolkit."""
    teacher: Any = plan.teacher
    with torch.no_grad():
        student_logp, teacher_logp = (model(x).double().log_softmax(-1) for model in (plan.student, teacher.model))
    return float((teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1).mean())


def test_training_in_bf16_brings_the_student_to_its_teacher() -> None:
    plan = linear_plan()
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    seen: set[torch.dtype] = set()
    plan.student.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    before = divergence(plan, x)
    seen.clear()
    optimizer = torch.optim.AdamW(Bundle(plan).parameters(), lr=0.05, weight_decay=0.0)
    options = FitOptions(num_epochs=20, accumulation=2, max_grad_norm=1.0, precision=resolve_precision("bf16", CPU))
    fit(plan, LoaderSource([(part,) for part in x.split(8)]), optimizer, options)
    assert seen == {torch.bfloat16}
    assert divergence(plan, x) < 0.1 * before
    kept = [*plan.student.parameters(), *(state["exp_avg"] for state in optimizer.state.values())]
    assert {tensor.dtype for tensor in kept} == {torch.float32}


def scaled_run(folder: Path, stop_at: int | None = None, resume: bool = False) -> tuple[torch.Tensor, list[float]]:
    """Steps in fp16 that overflow at first: the trained weights, and the gradient norm of every update made."""
    plan, norms = linear_plan(scale=20.0), []
    optimizer = torch.optim.SGD(plan.student.parameters(), lr=0.5, momentum=0.9)

    def norm(optimizer: Any, args: Any, kwargs: Any) -> None:
        norms.append(float(torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in plan.student.parameters()]))))

    optimizer.register_step_pre_hook(norm)
    x = 40 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    options = FitOptions(num_steps=12, precision=Precision(torch.float16), max_grad_norm=0.01, output_dir=folder,
                         save=EverySteps(1), resume=resume, sinks=[StopAt(stop_at)])
    fit(plan, LoaderSource([(x,)]), optimizer, options)
    return plan.student.weight.detach().clone(), norms


def test_the_gradient_scaler_skips_overflows_clips_true_gradients_and_resumes(tmp_path: Path) -> None:
    weights, norms = scaled_run(tmp_path / "whole")
    assert 0 < len(norms) < 12
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
    with pytest.raises(KeyboardInterrupt):
        scaled_run(tmp_path / "cut", stop_at=2)
    assert checkpoints.load_state(tmp_path / "cut" / "gs2")["scaler"]["scale"] < 65536
    resumed, _ = scaled_run(tmp_path / "cut", resume=True)
    states = [checkpoints.load_state(tmp_path / name / "gs12")["scaler"] for name in ("whole", "cut")]
    assert states[0] == states[1] and torch.equal(resumed, weights)


def test_a_scheduler_makes_no_noise_over_a_first_step_that_overflows() -> None:
    plan = linear_plan(scale=20.0)
    optimizer = torch.optim.SGD(plan.student.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    x = 40 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    options = FitOptions(num_steps=2, precision=Precision(torch.float16))
    assert fit(plan, LoaderSource([(x,)]), optimizer, options, scheduler).steps == 2  # and no warning
