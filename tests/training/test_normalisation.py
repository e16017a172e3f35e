"""However the rows are cut into micro-batches, the gradient is that of the whole batch."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from stillhouse.batches import as_batch, ghost_of
from stillhouse.plan import Distillation
from stillhouse.training import step as step_module
from stillhouse.training.bundle import Bundle
from stillhouse.training.precision import Precision
from stillhouse.training.step import accumulate_gradients
from stillhouse.types import Batch, Progress

from .toy import collate, make_plan, rows, split, whole_batch_loss

SPLITS = [[8], [2, 2, 2, 2], [1] * 8, [3, 5], [1, 6, 1]]


def gradient(bundle: Bundle) -> Tensor:
    return torch.cat([p.grad.flatten() for p in bundle.parameters()])  # type: ignore[union-attr]


def accumulated(plan: Distillation, window: list[Batch]) -> tuple[Tensor, float]:
    bundle = Bundle(plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = accumulate_gradients(
            plan, bundle, bundle, window, Progress(0, 1), {}, Precision().scaler(torch.device("cpu"))
        )
    return gradient(bundle), float(result.loss)


def reference(opaque: bool) -> tuple[Tensor, float]:
    plan = make_plan(opaque)
    bundle = Bundle(plan)
    loss = whole_batch_loss(plan, opaque)
    loss.backward()
    return gradient(bundle), float(loss.detach())


@pytest.mark.parametrize("opaque", [False, True], ids=["declared masks", "opaque masks"])
@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_accumulation_does_not_change_loss_or_gradient(sizes: list[int], opaque: bool) -> None:
    wanted, wanted_loss = reference(opaque)
    got, loss = accumulated(make_plan(opaque), [as_batch(batch) for batch in split(sizes)])
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)


@pytest.mark.parametrize("opaque", [False, True])
def test_more_padding_changes_nothing(opaque: bool) -> None:
    wanted, _ = reference(opaque)
    got, _ = accumulated(make_plan(opaque), [as_batch(collate(rows(), length=23))])
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("opaque", [False, True])
def test_a_ghost_counts_for_nothing(opaque: bool) -> None:
    wanted, _ = reference(opaque)
    window = [as_batch(batch) for batch in split([4, 4])]
    got, _ = accumulated(make_plan(opaque), [*window, ghost_of(window[0]), ghost_of(window[1])])
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


def test_a_mean_of_micro_batch_means_would_be_seen() -> None:
    wanted, _ = reference(False)
    parts = [accumulated(make_plan(False), [as_batch(batch)])[0] for batch in split([2, 2, 2, 2])]
    assert (torch.stack(parts).mean(0) - wanted).norm() / wanted.norm() > 0.05


def test_declared_masks_cost_no_extra_forward_and_opaque_ones_all_but_the_first() -> None:
    for opaque, forwards in ((False, 4), (True, 7)):
        plan = make_plan(opaque)
        accumulated(plan, [as_batch(batch) for batch in split([2, 2, 2, 2])])
        assert plan.student.forwards == forwards
        assert plan.teacher.model.forwards == 4  # type: ignore[attr-defined]


def test_a_single_micro_batch_costs_one_forward_even_with_opaque_masks() -> None:
    plan = make_plan(opaque=True)
    accumulated(plan, [as_batch(collate(rows()))])
    assert plan.student.forwards == 1


def test_the_survey_warns_once_and_names_the_remedy() -> None:
    step_module._warn_survey.cache_clear()
    plan = make_plan(opaque=True)
    bundle = Bundle(plan)
    window = [as_batch(batch) for batch in split([4, 4])]
    scaler = Precision().scaler(torch.device("cpu"))
    with pytest.warns(UserWarning, match="masks=lambda batch"):
        accumulate_gradients(plan, bundle, bundle, window, Progress(0, 1), {}, scaler)
    accumulate_gradients(plan, bundle, bundle, window, Progress(0, 1), {}, scaler)


def test_a_survey_does_not_disturb_dropout() -> None:
    """The survey draws other numbers than training does only if it moves the generator: two runs must agree."""
    window = [as_batch(batch) for batch in split([4, 4])]
    torch.manual_seed(0)
    plan = make_plan(opaque=True, dropout=0.5)
    torch.manual_seed(5)
    accumulated(plan, window)
    after = torch.rand(1)
    torch.manual_seed(5)
    for batch in window:
        plan.student(**batch.student)
    assert torch.equal(after, torch.rand(1))
