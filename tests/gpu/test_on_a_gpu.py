"""What is computed on the CPU is computed on a CUDA device: losses, steps, teachers, checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse import (
    BasicDistiller,
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
    TrainingConfig,
)
from stillhouse.adaptors import ModulePathAdaptor
from stillhouse.adaptors.sentence_embedding import EMBEDDING
from stillhouse.batches import as_batch, batch_to_device
from stillhouse.losses import BinaryLabels, ForwardKL, SquaredError
from stillhouse.losses.embeddings import EMBEDDING_LOSSES
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.presets import KD_LOSS_MAP, MATCH_LOSS_MAP
from stillhouse.teachers import CachedTeacher, LiveTeacher
from stillhouse.teachers.stores import MemoryStore
from stillhouse.training import Bundle, EverySteps, FitOptions, LoaderSource, Precision, checkpoint, fit
from stillhouse.training.step import accumulate_gradients
from stillhouse.types import LABELS, LOGITS, Batch, Progress
from tests.distillers import toys
from tests.gpu.device import BF16, CPU, DEVICE, FP16, FP32, assert_close, needs_device
from tests.losses.cases import Case, every_loss
from tests.losses.sides import Sides, alone, sides
from tests.training.resumable import StopAt, shuffled_loader, weights_of
from tests.training.toy import make_plan, split

pytestmark = needs_device


# Losses.


def losses_of(make: Callable[[], Any], given: Sides, device: torch.device) -> Any:
    moved = dataclasses.replace(given.map(lambda key, value: value.to(device)), mask=given.mask.to(device))
    loss = make().to(device)
    value, gradients = moved.value_and_gradients(loss)
    loss.after_step(alone)
    return {"value": value, **{str(key): gradient for key, gradient in gradients.items()},
            **{name: buffer for name, buffer in loss.named_buffers()}}


@every_loss
def test_every_loss_has_the_value_and_the_gradient_of_the_cpu(case: Case) -> None:
    given = sides(torch.float32)
    assert_close(losses_of(case.make, given, DEVICE), losses_of(case.make, given, CPU))


@every_loss
def test_every_loss_of_halves_is_finite_in_float32(case: Case) -> None:
    with torch.autocast(DEVICE.type, torch.bfloat16):
        found = losses_of(case.make, sides(torch.bfloat16), DEVICE)
    assert found["value"].dtype is torch.float32 and all(bool(value.isfinite().all()) for value in found.values())


@pytest.mark.parametrize("name", [*EMBEDDING_LOSSES, "binary", "squared"])
def test_losses_of_rows_have_the_value_of_the_cpu(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=generator) for _ in range(2))
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [math.nan] * 3, [1, 1, 1], [0, 1, 0]])
    kept = torch.tensor([[1], [1], [0], [1], [1]])

    def value(device: torch.device) -> Tensor:
        s, t, mask = student.clone().to(device).requires_grad_(), teacher.to(device), kept.to(device)
        if name in EMBEDDING_LOSSES:
            found = EMBEDDING_LOSSES[name]()({EMBEDDING: s}, {EMBEDDING: t}, {"inputs": mask})
        else:
            made, width = (BinaryLabels(), 3) if name == "binary" else (SquaredError(), 1)
            found = made({LOGITS: s[:, :width], LABELS: labels.to(device)[:, :width]}, {}, {"labels": mask})
        found.backward()
        assert s.grad is not None
        return torch.cat([found.detach().reshape(1), s.grad.flatten()])

    assert_close(value(DEVICE), value(CPU))


@pytest.mark.parametrize("name", [*KD_LOSS_MAP, *MATCH_LOSS_MAP])
def test_every_preset_has_the_mean_of_the_cpu(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    if name in KD_LOSS_MAP:
        logits = [torch.randn(4, 5, 3, generator=generator) for _ in range(2)]
        assert_close(KD_LOSS_MAP[name](*(side.to(DEVICE) for side in logits), 2.0), KD_LOSS_MAP[name](*logits, 2.0))
        return
    preset: Any = MATCH_LOSS_MAP[name]
    shape = (3, 5, 4) if preset.loss.reads == "hidden" else (3, 2, 5, 5)
    student, teacher = ([torch.randn(*shape, generator=generator) for _ in range(preset.loss.num_layers or 3)]
                        for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
    moved = [[state.to(DEVICE) for state in side] for side in (student, teacher)]
    assert_close(preset(*moved, mask=mask.to(DEVICE)), preset(student, teacher, mask=mask))


# Distillers.


def toy(**sizes: int) -> Any:
    return toys.Toy(**sizes).float()


def small_batches(seed: int = 5) -> list[tuple[Tensor, Tensor]]:
    return [(x.float(), labels) for x, labels in toys.batches(4, seed=seed)]


def distiller_of(name: str, config: TrainingConfig) -> Any:
    teachers, student = [toy(**toys.TEACHER), toy(**{**toys.TEACHER, "seed": 7})], toy(**toys.STUDENT)
    adaptor, plain = toys.adaptor, DistillationConfig(temperature=4, hard_label_weight=0.5)
    if name == "Train":
        return BasicTrainer(config, student, adaptor)
    if name == "Basic":
        return BasicDistiller(config, DistillationConfig(is_caching_logits=True), teachers[0], student, adaptor,
                              adaptor)
    if name == "General":
        attention = {"layer_T": 1, "layer_S": 1, "feature": "attention", "loss": "attention_mse", "weight": 0.1}
        matches = DistillationConfig(hard_label_weight=0.5, intermediate_matches=[toys.MATCH, attention])

        def with_maps(batch: Any, out: Mapping[str, Any]) -> dict[str, Any]:
            return adaptor(batch, out) | {"attention": out["attention"]}

        return GeneralDistiller(config, matches, teachers[0], student, with_maps, with_maps)
    if name == "MultiTeacher":
        return MultiTeacherDistiller(config, plain, teachers, student, adaptor, adaptor, teacher_weights=[1, 2],
                                     average="probabilities")
    both = {"a": adaptor, "b": adaptor}
    return MultiTaskDistiller(config, plain, {"a": teachers[0], "b": teachers[1]}, student, both, both)


def distilled(name: str, device: torch.device) -> dict[str, Tensor]:
    """The weights after five steps over four batches, and then the value of each part."""
    torch.manual_seed(0)
    config = TrainingConfig(device=str(device), output_dir=None, precision="fp32", gradient_accumulation_steps=2,
                            seed=3)
    distiller = distiller_of(name, config)
    optimizer, given = toys.sgd(distiller.model_S, lr=0.05), small_batches()
    with distiller:
        loaders: Any = {"a": given, "b": small_batches(6)} if name == "MultiTask" else given
        distiller.train(optimizer, loaders, num_steps=5, max_grad_norm=1.0)
        total, parts = distiller.train_on_batch(given[0], task="a" if name == "MultiTask" else "default")
    assert total.device.type == device.type
    return {"weights": toys.weights(distiller.model_S.cpu()), "total": total.detach(), **parts}


@pytest.mark.filterwarnings("ignore:gradient accumulation with masks")
@pytest.mark.parametrize("name", ["Train", "Basic", "General", "MultiTeacher", "MultiTask"])
def test_every_distiller_takes_the_steps_that_it_takes_on_the_cpu(name: str) -> None:
    assert_close(distilled(name, DEVICE), distilled(name, CPU), tolerance=1e-4)


@pytest.mark.filterwarnings("ignore:gradient accumulation with masks")
@pytest.mark.parametrize("opaque", [False, True])
def test_accumulated_gradients_are_those_of_the_cpu(opaque: bool) -> None:
    def gradient(device: torch.device) -> Tensor:
        plan = make_plan(opaque)
        bundle = Bundle(plan).to(device)
        plan.teacher.model.to(device)  # type: ignore[attr-defined]
        window = [batch_to_device(as_batch(batch), device) for batch in split([3, 4, 1])]
        result = accumulate_gradients(plan, bundle, bundle, window, Progress(0, 1), {}, FP32.scaler(device))
        assert result.loss.device.type == device.type
        return torch.cat([p.grad.flatten() for p in bundle.parameters() if p.grad is not None])

    assert_close(gradient(DEVICE), gradient(CPU), tolerance=1e-9)


# Teachers.


def test_a_teacher_on_the_cpu_reads_what_the_device_has_finished() -> None:
    """The device is still busy making the inputs when the teacher beside it is asked."""
    torch.manual_seed(0)
    teacher = nn.Linear(512, 3)
    for _ in range(3):
        x = torch.randn(512, 512, device=DEVICE)
        for _ in range(100):
            x = torch.tanh(x @ x)
        batch = Batch((x,), (x,))
        found = LiveTeacher(teacher, ModulePathAdaptor()).signals(batch, frozenset({LOGITS}))[LOGITS]
        assert_close(found, teacher(x.cpu()).detach())


def trained_with(teacher_of: Callable[[LiveTeacher], Any]) -> tuple[Tensor, int]:
    """Two shuffled epochs with dropout: the weights, and how often the teacher's model ran."""
    plan = make_plan(dropout=0.4)
    live: Any = plan.teacher
    live.model.to(DEVICE)
    plan = dataclasses.replace(plan, teacher=teacher_of(live))
    torch.manual_seed(8)
    options = FitOptions(num_epochs=2, device=DEVICE, max_grad_norm=1.0)
    fit(plan, LoaderSource(split([3, 3, 2])), torch.optim.AdamW(Bundle(plan).parameters(), lr=0.05), options)
    return weights_of(plan), live.model.forwards


def test_a_cached_epoch_reads_what_a_live_one_computes() -> None:
    store = MemoryStore()
    kept: list[CachedTeacher] = []

    def cached(live: LiveTeacher) -> CachedTeacher:
        kept.append(CachedTeacher(kept[0].inner if kept else live, store))
        kept[-1]._identity = "the same in both trainings"
        return kept[-1]

    live, cold, warm = trained_with(lambda teacher: teacher), trained_with(cached), trained_with(cached)
    assert_close(cold[0], live[0], tolerance=1e-9)
    assert_close(warm[0], live[0], tolerance=1e-9)
    assert (live[1], cold[1], warm[1]) == (6, 3, 0)


# Precision, checkpoints.


def linear_plan(scale: float = 1.0) -> Distillation:
    torch.manual_seed(0)
    student, teacher = nn.Linear(8, 5), nn.Linear(8, 5).to(DEVICE)
    with torch.no_grad():
        teacher.weight.mul_(3)
        student.weight.mul_(scale)
    return Distillation(student, ModulePathAdaptor(), LiveTeacher(teacher, ModulePathAdaptor()),
                        Objective([Term("kl", ForwardKL(2.0))]))


def divergence(plan: Distillation, x: Tensor) -> float:
    teacher: Any = plan.teacher
    with torch.no_grad():
        s, t = (model(x.to(DEVICE)).double().log_softmax(-1) for model in (plan.student.to(DEVICE), teacher.model))
    return float((t.exp() * (t - s)).sum(-1).mean())


@pytest.mark.parametrize("precision", [FP32, BF16, FP16], ids=str)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_every_precision_brings_the_student_to_its_teacher(precision: Precision, fused: bool) -> None:
    plan, x = linear_plan(), torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    before = divergence(plan, x)
    optimizer = torch.optim.AdamW(plan.student.parameters(), lr=0.05, weight_decay=0.0, fused=fused)
    options = FitOptions(num_epochs=20, accumulation=2, max_grad_norm=1.0, precision=precision, device=DEVICE)
    fit(plan, LoaderSource([(part,) for part in x.split(8)]), optimizer, options)
    assert divergence(plan, x) < 0.1 * before
    assert {p.dtype for p in plan.student.parameters()} == {torch.float32}


def scaled_run(folder: Path, stop_at: int | None = None, resume: bool = False) -> tuple[Tensor, int]:
    """Steps in fp16 that overflow at first: the trained weights, and how many updates were made."""
    plan, updates = linear_plan(scale=20.0), []
    optimizer = torch.optim.SGD(plan.student.parameters(), lr=0.5, momentum=0.9)
    optimizer.register_step_pre_hook(lambda *_: updates.append(1))
    x = 40 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    options = FitOptions(num_steps=12, precision=FP16, max_grad_norm=0.01, output_dir=folder, save=EverySteps(1),
                         resume=resume, sinks=[StopAt(stop_at)], device=DEVICE)
    fit(plan, LoaderSource([(x,)]), optimizer, options)
    return plan.student.weight.detach().cpu().clone(), len(updates)  # type: ignore[operator, union-attr]


def test_the_gradient_scaler_skips_overflows_and_resumes(tmp_path: Path) -> None:
    whole, updates = scaled_run(tmp_path / "whole")
    assert 0 < updates < 12
    with pytest.raises(KeyboardInterrupt):
        scaled_run(tmp_path / "cut", stop_at=2)
    assert checkpoint.load_state(tmp_path / "cut" / "gs2")["scaler"]["scale"] < 65536
    assert_close(scaled_run(tmp_path / "cut", resume=True)[0], whole, tolerance=1e-6)


def resumable(folder: Path, device: torch.device = DEVICE, dropout: float = 0.4, stop_at: int | None = None,
              resume: bool = False) -> Tensor:
    """Three shuffled epochs of four steps with AdamW, a schedule and a projection; the trained weights."""
    torch.manual_seed(7)
    plan = make_plan(dropout=dropout)
    plan.teacher.model.to(device)  # type: ignore[attr-defined]
    torch.manual_seed(8)
    optimizer = torch.optim.AdamW(Bundle(plan).to(device).parameters(), lr=0.05, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    options = FitOptions(num_epochs=3, max_grad_norm=1.0, output_dir=folder, save=EverySteps(5), resume=resume,
                         sinks=[StopAt(stop_at)], device=device)
    fit(plan, LoaderSource(shuffled_loader()), optimizer, options, scheduler)
    return weights_of(plan).cpu()


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole = resumable(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path / "cut", stop_at=5)
    assert_close(resumable(tmp_path / "cut", resume=True), whole, tolerance=1e-9)


@pytest.mark.parametrize("devices", [(DEVICE, CPU), (CPU, DEVICE)], ids=["to the cpu", "from the cpu"])
def test_a_training_goes_on_on_another_device(devices: tuple[torch.device, torch.device], tmp_path: Path) -> None:
    whole = resumable(tmp_path / "whole", devices[0], dropout=0.0)
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path / "cut", devices[0], dropout=0.0, stop_at=5)
    assert_close(resumable(tmp_path / "cut", devices[1], dropout=0.0, resume=True), whole, tolerance=1e-9)
