"""Training as the paper's users call it: lengths, checkpoints, callbacks, modes, and training more than once."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stillhouse import BasicTrainer, DistillationConfig, GeneralDistiller, MultiTeacherDistiller
from stillhouse.errors import DataError, PlanError
from stillhouse.training import checkpoint

from .toys import (
    MATCH,
    Endless,
    adaptor,
    basic,
    batches,
    general,
    kd,
    sgd,
    student,
    tconf,
    teacher,
    weights,
)


def trained(distiller: Any, loader: Any, lr: float = 0.1, **length: Any) -> Tensor:
    distiller.train(sgd(distiller.model_S, lr), loader, **length)
    return weights(distiller.model_S)


def by_hand(data: Any, steps: int, accumulation: int = 1, lr: float = 0.1) -> Tensor:
    """Plain gradient descent on the KD loss, ``accumulation`` batches at a time, over and over; a shorter rest at the
    data's end is a step of its own if ``accumulation`` does not divide it.
    """
    models = teacher(), student()
    groups = [data[i:i + accumulation] for i in range(0, len(data), accumulation)]
    for step in range(steps):
        rows = torch.cat([x for x, _ in groups[step % len(groups)]])
        loss = kd(models[1](rows)["logits"], models[0](rows)["logits"].detach()).mean()
        gradients = torch.autograd.grad(loss, [p for p in models[1].parameters()], allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(models[1].parameters(), gradients, strict=True):
                if gradient is not None:
                    parameter -= lr * gradient
    return weights(models[1])


def test_every_distiller_trains_through_the_same_interface(tmp_path: Path) -> None:
    config = DistillationConfig(temperature=2)
    distillers = [
        BasicTrainer(tconf(tmp_path / "0"), student(), adaptor),
        basic(tmp_path / "1"),
        general(tmp_path / "2", intermediate_matches=[MATCH]),
        MultiTeacherDistiller(tconf(tmp_path / "3"), config, [teacher(), teacher(3)], student(), adaptor, adaptor),
    ]
    for distiller in distillers:
        before, seen = weights(distiller.model_S), []
        with distiller:
            distiller.train(sgd(distiller.model_S), batches(), num_epochs=2,
                            callback=lambda model, step, s=seen: s.append(step))
        assert seen == [4, 8]
        assert not torch.equal(before, weights(distiller.model_S))


# Length


def test_epochs_and_steps_train_as_plain_gradient_descent_does(tmp_path: Path) -> None:
    data = batches(4)
    torch.testing.assert_close(trained(basic(tmp_path), data, num_epochs=2), by_hand(data, 8))
    torch.testing.assert_close(trained(basic(tmp_path), data, num_steps=6), by_hand(data, 6))
    torch.testing.assert_close(trained(basic(tmp_path), data, num_steps=6, num_epochs=1), by_hand(data, 6))


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (1.5, 6), (1.1, 5), (0.01, 1)])
def test_part_of_an_epoch_is_trained_rounded_up_to_a_step(tmp_path: Path, epochs: float, steps: int) -> None:
    distiller = basic(tmp_path)
    torch.testing.assert_close(trained(distiller, batches(4), num_epochs=epochs), by_hand(batches(4), steps))
    assert checkpoint.steps(tmp_path / "out") == sorted({step for step in (4, steps) if step <= steps})


def test_leftover_micro_batches_of_an_epoch_are_a_step_of_their_own(tmp_path: Path) -> None:
    distiller = basic(tmp_path, training={"gradient_accumulation_steps": 3})
    found = trained(distiller, batches(5), num_epochs=2)
    assert checkpoint.steps(tmp_path / "out") == [2, 4]
    torch.testing.assert_close(found, by_hand(batches(5), 4, accumulation=3))


def test_fewer_batches_than_accumulation_steps_train_too(tmp_path: Path) -> None:
    distiller = basic(tmp_path, training={"gradient_accumulation_steps": 8})
    torch.testing.assert_close(trained(distiller, batches(2), num_epochs=1), by_hand(batches(2), 1, accumulation=2))


def test_a_loader_without_a_length_trains_for_steps_and_for_epochs(tmp_path: Path) -> None:
    for length, steps, begun in (({"num_steps": 6}, 6, 2), ({"num_epochs": 3}, 12, 3)):
        loader = Endless(batches(4))
        torch.testing.assert_close(trained(basic(tmp_path), loader, **length), by_hand(batches(4), steps))
        assert loader.epochs == begun


def test_a_loader_without_a_length_is_saved_at_the_end_of_epochs(tmp_path: Path) -> None:
    trained(basic(tmp_path, training={"ckpt_epoch_frequency": 2}), Endless(batches(3)), num_epochs=3)
    assert checkpoint.steps(tmp_path / "out") == [6, 9]


def test_what_a_loader_without_a_length_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"num_epochs=1.5: part of an epoch needs a loader with a length"):
        trained(basic(tmp_path), Endless(batches()), num_epochs=1.5)
    with pytest.raises(PlanError, match="give num_steps instead of num_epochs"):
        trained(basic(tmp_path, kd_loss_weight_scheduler="linear_decay"), Endless(batches()), num_epochs=1)
    with pytest.warns(UserWarning, match="ckpt_frequency has no effect.*no length"):
        trained(basic(tmp_path, training={"ckpt_frequency": 2}), Endless(batches()), num_epochs=1)


def test_a_generator_serves_one_epoch_and_then_says_so(tmp_path: Path) -> None:
    torch.testing.assert_close(trained(basic(tmp_path), iter(batches(3)), num_epochs=1), by_hand(batches(3), 3))
    for length in ({"num_epochs": 2}, {"num_steps": 5}):
        with pytest.raises(DataError, match="a generator can be used only once"):
            trained(basic(tmp_path), iter(batches(3)), **length)


@pytest.mark.parametrize("length", [{"num_epochs": 1}, {"num_steps": 3}])
def test_an_empty_loader_is_said(tmp_path: Path, length: dict[str, int]) -> None:
    with pytest.raises(DataError, match="gave no batch"):
        trained(basic(tmp_path), [], **length)


def test_old_gradients_do_not_leak_into_the_first_step(tmp_path: Path) -> None:
    distiller = basic(tmp_path)
    for parameter in distiller.model_S.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    torch.testing.assert_close(trained(distiller, batches(2), num_steps=1), by_hand(batches(2), 1))


# Checkpoints


@pytest.mark.parametrize(("settings", "length", "saved"), [
    ({}, {"num_epochs": 2}, [5, 10]),
    ({"ckpt_frequency": 2}, {"num_epochs": 2}, [2, 5, 7, 10]),
    ({"ckpt_frequency": 3}, {"num_epochs": 2}, [1, 3, 5, 6, 8, 10]),
    ({"ckpt_epoch_frequency": 2}, {"num_epochs": 3}, [10, 15]),
    ({"ckpt_epoch_frequency": 2, "ckpt_frequency": 2}, {"num_epochs": 3}, [7, 10, 12, 15]),
    ({"ckpt_epoch_frequency": 2}, {"num_epochs": 3.5}, [10, 18]),
    ({"ckpt_epoch_frequency": 9}, {"num_epochs": 2}, [10]),
    ({"ckpt_steps": 3}, {"num_steps": 7}, [3, 6, 7]),
    ({"ckpt_steps": 3}, {"num_steps": 6}, [3, 6]),
    ({"ckpt_steps": 50}, {"num_steps": 7}, [7]),
    ({}, {"num_steps": 7}, [7]),
], ids=str)
def test_checkpoints_are_saved_when_the_configuration_says(
    tmp_path: Path, settings: dict[str, int], length: dict[str, Any], saved: list[int]
) -> None:
    told: list[int] = []
    distiller = basic(tmp_path, training=settings)
    distiller.train(sgd(distiller.model_S), batches(5), callback=lambda model, step: told.append(step), **length)
    assert told == saved == checkpoint.steps(tmp_path / "out")


def test_a_checkpoint_holds_the_student_as_it_was_at_that_step(tmp_path: Path) -> None:
    trained(basic(tmp_path, training={"ckpt_steps": 2}), batches(3), num_steps=5)
    for step in (2, 4, 5):
        again = student(seed=99)
        checkpoint.load_student(tmp_path / "out" / f"gs{step}", again)
        torch.testing.assert_close(weights(again), by_hand(batches(3), step))


def test_without_an_output_folder_nothing_is_written_and_callbacks_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[int] = []
    distiller = basic(None)
    distiller.train(sgd(distiller.model_S), batches(2), num_epochs=2, callback=lambda model, step: told.append(step))
    assert told == [2, 4] and list(tmp_path.iterdir()) == []


def test_settings_about_checkpoints_that_have_no_effect_warn(tmp_path: Path) -> None:
    for settings, length in (({"ckpt_steps": 3}, {"num_epochs": 1}), ({"ckpt_frequency": 2}, {"num_steps": 1}),
                             ({"ckpt_epoch_frequency": 2}, {"num_steps": 1}), ({"local_rank": 0}, {"num_steps": 1})):
        with pytest.warns(UserWarning, match=f"{next(iter(settings))} has no effect"):
            trained(basic(tmp_path, training=settings), batches(1), **length)


# Callbacks and modes


def test_a_callback_gets_the_student_when_its_checkpoint_is_complete(tmp_path: Path) -> None:
    seen = []

    def callback(model: nn.Module, step: int) -> None:
        again = student(seed=99)
        checkpoint.load_student(tmp_path / "out" / f"gs{step}", again)
        seen.append((model, step, torch.equal(weights(again), weights(model))))

    distiller = basic(tmp_path)
    distiller.train(sgd(distiller.model_S), batches(2), num_epochs=2, callback=callback)
    assert seen == [(distiller.model_S, 2, True), (distiller.model_S, 4, True)]


def test_a_callback_may_leave_the_student_in_eval_mode_and_draw_random_numbers(tmp_path: Path) -> None:
    found = []
    for disturb in (False, True):
        def callback(model: nn.Module, step: int, disturb: bool = disturb) -> None:
            if disturb:
                model.eval()
                torch.rand(3), np.random.rand(3)
                with torch.no_grad():
                    model(batches(1)[0][0])

        distiller = basic(tmp_path, training={"ckpt_steps": 1})
        torch.manual_seed(3)
        loader = torch.utils.data.DataLoader(batches(4), batch_size=None, shuffle=True)  # type: ignore[arg-type]
        distiller.train(sgd(distiller.model_S), loader, num_steps=6, callback=callback)
        found.append(weights(distiller.model_S))
        assert distiller.model_S.calls == ([True, False] * 6 if disturb else [True] * 6)
    assert torch.equal(*found)


def test_metrics_that_a_callback_returns_are_in_the_result(tmp_path: Path) -> None:
    distiller = basic(tmp_path)
    result = distiller.train(sgd(distiller.model_S), batches(2), num_epochs=2,
                             callback=lambda model, step: {"accuracy": step / 10})
    assert result.steps == 4 and result.evaluations == {2: {"accuracy": 0.2}, 4: {"accuracy": 0.4}}


@pytest.mark.parametrize("block", [False, True])
def test_teachers_evaluate_and_students_train_with_and_without_the_block(tmp_path: Path, block: bool) -> None:
    distiller = general(tmp_path, intermediate_matches=[MATCH])
    distiller.model_T.train()
    distiller.model_S.eval()
    if block:
        with distiller as entered:
            assert entered is distiller
            assert not distiller.model_T.training and distiller.model_S.training
            trained(distiller, batches(1), num_epochs=1)
            assert not distiller.model_T.training and distiller.model_S.training
    else:
        trained(distiller, batches(1), num_epochs=1)
    assert distiller.model_T.calls == [False] and distiller.model_S.calls == [True]
    assert distiller.model_T.training and not distiller.model_S.training


@pytest.mark.parametrize("block", [False, True])
def test_every_sub_modules_mode_comes_back(tmp_path: Path, block: bool) -> None:
    distiller = basic(tmp_path)
    distiller.model_T.layers[1].train(False)
    distiller.model_S.layers[0].eval()  # frozen, as users do it
    before = [module.training for model in (distiller.model_T, distiller.model_S) for module in model.modules()]
    if block:
        with distiller:
            trained(distiller, batches(1), num_epochs=1)
    else:
        trained(distiller, batches(1), num_epochs=1)
    after = [module.training for model in (distiller.model_T, distiller.model_S) for module in model.modules()]
    assert before == after and set(before) == {True, False}


def test_modes_come_back_after_an_error_too(tmp_path: Path) -> None:
    distiller = basic(tmp_path)
    distiller.model_S.eval()
    with pytest.raises(KeyError), distiller:
        trained(distiller, [{"y": torch.zeros(1)}], num_epochs=1, batch_postprocessor=lambda batch: batch["x"])
    assert not distiller.model_S.training and distiller.model_T.training


def test_no_extra_forward_is_ever_run(tmp_path: Path) -> None:
    for accumulation in (1, 4):
        distiller = basic(tmp_path, training={"gradient_accumulation_steps": accumulation})
        with distiller:
            trained(distiller, batches(4), num_epochs=3)
        assert len(distiller.model_T.calls) == len(distiller.model_S.calls) == 12


def test_the_teacher_is_left_as_it_was(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=[MATCH])
    before = copy.deepcopy(distiller.model_T.state_dict())
    trained(distiller, batches(2), num_epochs=1)
    assert all(torch.equal(before[name], value) for name, value in distiller.model_T.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in distiller.model_T.parameters())


# More than once


def test_projections_join_the_optimizer_once_with_their_own_options(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=[MATCH | {"proj": ["linear", 6, 8, {"lr": 0.5}]}, MATCH])
    optimizer = sgd(distiller.model_S)
    losses = distiller.plan.objective.losses
    before = [weights(loss) for loss in losses.values()]
    for _ in range(2):
        distiller.train(optimizer, batches(1), num_epochs=1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5, 0.1]
    moved = [not torch.equal(old, weights(loss)) for old, loss in zip(before, losses.values(), strict=True)]
    assert moved == [False, False, True, True], "each match has a projection of its own, and both learn"


def test_clipping_covers_the_projections(tmp_path: Path) -> None:
    distiller = general(tmp_path, kd_loss_weight=0, intermediate_matches=[MATCH | {"weight": 1e4}])
    projection = distiller.plan.objective.losses["unweighted_hidden_hidden_mse_1_2"].projection
    before = torch.cat([weights(distiller.model_S), weights(projection)])
    distiller.train(sgd(distiller.model_S, lr=1.0), batches(1), num_steps=1, max_grad_norm=0.5)
    after = torch.cat([weights(distiller.model_S), weights(projection)])
    assert float((after - before).norm()) == pytest.approx(0.5, rel=1e-4)


def test_resume_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    def train(folder: Path, resume: bool, stop: bool = False) -> Tensor:
        distiller = general(folder, training={"resume": resume, "ckpt_steps": 3}, intermediate_matches=[MATCH])

        def callback(model: nn.Module, step: int) -> None:
            if stop:
                raise KeyboardInterrupt

        distiller.train(torch.optim.Adam(distiller.model_S.parameters()), batches(4), num_steps=7, callback=callback)
        return torch.cat([weights(distiller.model_S), weights(distiller.plan.objective)])

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", resume=False, stop=True)
    assert checkpoint.steps(tmp_path / "cut" / "out") == [3]
    resumed = train(tmp_path / "cut", resume=True)
    torch.manual_seed(0)
    assert torch.equal(resumed, train(tmp_path / "whole", resume=False))


def test_the_same_seed_gives_the_same_student(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        distiller = basic(tmp_path, training={"seed": 3})
        loader = torch.utils.data.DataLoader(batches(4), batch_size=None, shuffle=True)  # type: ignore[arg-type]
        found.append(trained(distiller, loader, num_epochs=2))
    assert torch.equal(*found)


def test_a_warning_is_no_noise(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(general(tmp_path, intermediate_matches=[MATCH], hard_label_weight=0.5), batches(1), num_epochs=1)
    assert checkpoint.steps(tmp_path / "out") == [1]


def test_a_general_distiller_may_be_used_like_a_basic_one(tmp_path: Path) -> None:
    distiller = GeneralDistiller(tconf(tmp_path), DistillationConfig(), teacher(), student(), adaptor, adaptor)
    torch.testing.assert_close(trained(distiller, batches(3), num_epochs=1), by_hand(batches(3), 3))
