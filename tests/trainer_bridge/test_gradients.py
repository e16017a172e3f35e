"""The Trainer's steps are ours: the same gradient, however rows are grouped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer

from stillhouse import DistillationConfig, Objective, Term
from stillhouse.batches import as_batch
from stillhouse.losses import ForwardKL, HardLabels
from stillhouse.schedules import Linear
from stillhouse.training import Precision
from stillhouse.training import step as step_module
from stillhouse.training.step import accumulate_gradients
from stillhouse.types import Progress

from .parts import Gradients, arguments, collate, gradients, naive_gradients, naive_loss, rows, student, trainer

WINDOWS = [(8, 1), (4, 2), (2, 4), (1, 8), (3, 3)]


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert set(got) == set(wanted)
    for name, value in got.items():
        torch.testing.assert_close(value, wanted[name], rtol=tolerance, atol=tolerance / 100)


@pytest.fixture(scope="module")
def naive(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], float]:
    return naive_gradients(trainer(tmp_path_factory.mktemp("naive")), rows())


@pytest.mark.parametrize(("size", "accumulation"), WINDOWS)
def test_accumulation_does_not_change_the_gradient(tmp_path: Path, naive: Any, size: int, accumulation: int) -> None:
    (got,) = gradients(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation)
    assert_same(got, naive[0])


def test_a_mean_of_batch_means_would_be_seen(tmp_path: Path, naive: Any) -> None:
    steps = gradients(tmp_path, per_device_train_batch_size=2, learning_rate=0.0)
    mean = torch.cat([torch.stack([step[name] for step in steps]).mean(0).flatten() for name in naive[0]])
    wanted = torch.cat([value.flatten() for value in naive[0].values()])
    assert (mean - wanted).norm() / wanted.norm() > 0.02


def test_a_step_is_that_of_our_own_loop(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    window = [as_batch(collate(rows()[i:i + 3])) for i in (0, 3, 6)]
    accumulate_gradients(made.plan, made.bundle, made.bundle, window, Progress(0, 1), {},
                         Precision().scaler(torch.device("cpu")))
    wanted = {name: p.grad for name, p in made.bundle.named_parameters() if p.grad is not None}
    (got,) = gradients(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert_same(got, wanted)


def test_no_gradient_is_left_over_from_the_step_before(tmp_path: Path, naive: Any) -> None:
    for step in gradients(tmp_path, learning_rate=0.0, num_train_epochs=3):
        assert_same(step, naive[0])


def test_what_only_outputs_tell_is_counted_too(tmp_path: Path, naive: Any) -> None:
    def translate(batch: dict[str, Tensor], outputs: Any) -> dict[str, Any]:
        mask = batch["attention_mask"]
        return {"logits": outputs.logits, "hidden": outputs.hidden_states, "labels": batch["labels"],
                "logits_mask": mask, "inputs_mask": mask}

    chosen = student()
    chosen.config.output_hidden_states = True
    options = {"model": chosen, "adaptor": translate}
    step_module._warn_survey.cache_clear()
    with pytest.warns(UserWarning, match="costs an extra forward"):
        (got,) = gradients(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=3, options=options)
    assert_same(got, naive[0])


def test_recomputed_activations_give_the_same_gradient(tmp_path: Path, naive: Any) -> None:
    (got,) = gradients(tmp_path, activation_checkpointing=True)
    assert_same(got, naive[0])


def test_clipping_is_of_everything_trained_together(tmp_path: Path, naive: Any) -> None:
    norm = torch.stack([value.norm() for value in naive[0].values()]).norm()
    (got,) = gradients(tmp_path, max_grad_norm=0.1)
    assert any(name.startswith("objective.") for name in got)
    assert_same(got, {name: value * 0.1 / (norm + 1e-6) for name, value in naive[0].items()})


def test_a_teacher_that_reads_other_inputs_gets_its_own(tmp_path: Path, naive: Any) -> None:
    def two_sided(chosen: list[dict[str, list[int]]]) -> dict[str, Any]:
        batch = collate(chosen)
        return {"student": batch, "teacher": {name: batch[name] for name in ("input_ids", "attention_mask")}}

    watch = Gradients()
    made = trainer(tmp_path, callbacks=[watch], remove_unused_columns=False, per_device_train_batch_size=4,
                   gradient_accumulation_steps=2)
    made.data_collator, watch.trainer = two_sided, made
    made.train()
    assert_same(watch.steps[0], naive[0])
    assert made.evaluate(rows())["eval_loss"] > 0


def test_under_bf16_it_is_still_the_step_of_our_own_loop(tmp_path: Path) -> None:
    made = trainer(tmp_path, bf16=True, options={"model": student().float()})
    assert made.bundle.precision.autocast_dtype is torch.bfloat16
    made.bundle.objective.float()
    made.plan.teacher.model.float()  # type: ignore[attr-defined]
    window = [as_batch(collate(rows()))]
    accumulate_gradients(made.plan, made.bundle, made.bundle, window, Progress(0, 1), {},
                         Precision().scaler(torch.device("cpu")))
    wanted = {name: p.grad.clone() for name, p in made.bundle.named_parameters() if p.grad is not None}
    made.bundle.zero_grad()
    watch = Gradients()
    made.add_callback(watch)
    watch.trainer = made
    made.train()
    got, same = (torch.cat([side[name].flatten() for name in wanted]) for side in (watch.steps[0], wanted))
    assert 0 < (got - same).norm() / same.norm() < 0.02  # rows come in another order, and bf16 is coarse
    assert all(value.dtype is torch.float32 for value in watch.steps[0].values())


def test_without_a_teacher_it_is_the_plain_trainer(tmp_path: Path) -> None:
    """Two epochs in shuffled order, with dropout: the same weights to the last bits that sums may differ in."""
    settings: dict[str, Any] = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "weight_decay": 0.1,
                                "max_grad_norm": 1.0}
    plain = Trainer(student(0.1), arguments(tmp_path / "plain", **settings), collate, rows())
    made = trainer(tmp_path / "ours", options={"model": student(0.1), "teacher": None, "distillation":
                                               {"loss_weight": 0.0, "hard_label_weight": 1.0}}, **settings)
    for one in (plain, made):
        torch.manual_seed(0)
        one.train()
    assert plain.state.log_history[0]["loss"] == pytest.approx(made.state.log_history[0]["loss"], rel=1e-6)
    assert_same(made.bundle.student.state_dict(), plain.model.state_dict(), 1e-8)  # type: ignore[union-attr]


def test_a_paper_configuration_means_the_same(tmp_path: Path) -> None:
    config = DistillationConfig(temperature=2.0, kd_loss_type="ce", hard_label_weight=0.5, intermediate_matches=[
        {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 0.7,
         "proj": ["linear", 8, 12, {"lr": 0.5}]}])
    made = trainer(tmp_path, options={"distillation": config})
    made.train()
    logged = made.state.log_history[0]
    with torch.no_grad():
        fresh = trainer(tmp_path)
        terms = naive_loss(fresh, rows())
        s, t = (model(**{k: v for k, v in collate(rows()).items() if k != "labels"}).logits / 2.0
                for model in (fresh.bundle.student, fresh.plan.teacher.model))  # type: ignore[attr-defined]
        ce = -(t.softmax(-1) * s.log_softmax(-1)).sum(-1)[collate(rows())["attention_mask"].bool()].mean()
    assert logged["loss/unweighted_kd_loss"] == pytest.approx(float(ce), rel=1e-9)
    assert logged["loss/unweighted_hard_label_loss"] == pytest.approx(float(terms["hard"]), rel=1e-9)
    rates = {group["lr"] for group in made.optimizer.param_groups}
    assert rates == {0.01, 0.5}


def test_weights_follow_their_schedules(tmp_path: Path) -> None:
    objective = Objective([Term("kd", ForwardKL(2.0), Linear(0.0, 1.0)), Term("hard", HardLabels(), Linear(0.0, 1.0))])
    made = trainer(tmp_path, num_train_epochs=2, learning_rate=0.0, options={"distillation": objective})
    made.train()
    first, second = made.state.log_history[:2]
    assert first["loss"] == 0.0 and "loss/kd" not in first
    assert second["loss"] == pytest.approx(0.5 * (second["loss/kd"] + second["loss/hard"]), rel=1e-6)


def test_logged_terms_are_means_over_the_steps_since_the_last_log(tmp_path: Path) -> None:
    made = trainer(tmp_path, num_train_epochs=1, per_device_train_batch_size=2, logging_steps=2, learning_rate=0.0)
    made.train()
    every = trainer(tmp_path, num_train_epochs=1, per_device_train_batch_size=2, learning_rate=0.0)
    every.train()
    two, one = ([log["loss/kd"] for log in trained.state.log_history if "loss/kd" in log] for trained in (made, every))
    assert two == pytest.approx([(one[0] + one[1]) / 2, (one[2] + one[3]) / 2], rel=1e-12)


def test_a_batch_outside_the_loop_is_a_step_of_its_own(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.bundle.train()
    loss, terms = made.compute_loss(made.bundle.student, collate(rows()), return_outputs=True)
    wanted = naive_loss(made, rows())
    assert float(loss.detach()) == pytest.approx(naive_gradients(made, rows())[1], rel=1e-10)
    assert float(terms["nst 0-0"]) == pytest.approx(float(wanted["nst"].detach()), rel=1e-10)
