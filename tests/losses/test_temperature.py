"""Temperature strategies: what they give each prediction, and what a loss makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stillhouse.errors import ConfigError
from stillhouse.losses import ForwardKL, FunctionLogitsLoss, LogitMSE, LogitsLoss, SoftCrossEntropy
from stillhouse.losses.temperature import CWSM, FLSW, LOWEST_SHARE, Strategy, constant, temperatures
from stillhouse.presets import TEMPERATURE_SCHEDULER, NamedStrategy, strategy_of
from stillhouse.types import LOGITS

STRATEGIES = [FLSW(beta=1.5, gamma=2.0), FLSW(beta=-1.0, gamma=0.5), CWSM(beta=3.0), CWSM(beta=-0.5)]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=str)


def logits(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student.clone().requires_grad_(), teacher.clone()


def spread_around(base: float, beta: float, weights: list[float]) -> list[float]:
    mean = sum(weights) / len(weights)
    return [base + beta * (mean - weight) for weight in weights]


def flsw_by_loop(student: list[list[float]], teacher: list[list[float]], beta: float, gamma: float,
                 eps: float = 1e-4) -> list[float]:
    weights = []
    for s, t in zip(student, teacher, strict=True):
        length_s, length_t = (math.sqrt(sum(v * v for v in side)) + eps for side in (s, t))
        weights.append((1 - sum(a / length_s * b / length_t for a, b in zip(s, t, strict=True))) ** gamma)
    return spread_around(4.0, beta, weights)


def cwsm_by_loop(student: list[list[float]], beta: float) -> list[float]:
    largest = [max(math.exp(v) for v in row) / sum(math.exp(v) for v in row) for row in student]
    return spread_around(4.0, beta, [1 / (share + 0.001) for share in largest])


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (1.5, 2.0), (-2.0, 0.5), (0.0, 3.0)])
def test_flsw_is_its_formula(beta: float, gamma: float) -> None:
    student, teacher = logits(6, 5)
    expected = flsw_by_loop(student.tolist(), teacher.tolist(), beta, gamma)
    assert FLSW(beta, gamma)(student, teacher, 4.0).tolist() == pytest.approx(expected, rel=1e-12)
    expected = flsw_by_loop(student.tolist(), teacher.tolist(), beta, gamma, eps=0.5)
    assert FLSW(beta, gamma, eps=0.5)(student, teacher, 4.0).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", [1.0, 3.0, -0.5, 0.0])
def test_cwsm_is_its_formula(beta: float) -> None:
    student, teacher = logits(6, 5)
    expected = cwsm_by_loop(student.tolist(), beta)
    assert CWSM(beta)(student, teacher, 4.0).tolist() == pytest.approx(expected, rel=1e-12)


def test_disagreement_and_doubt_lower_the_temperature() -> None:
    teacher = torch.tensor([[4.0, 0.0], [4.0, 0.0]])
    agreeing_then_not = FLSW(1.0, 2.0)(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), teacher, 4.0)
    assert agreeing_then_not[0] > 4 > agreeing_then_not[1]
    sure_then_not = CWSM(1.0)(torch.tensor([[5.0, 0.0], [0.1, 0.0]]), teacher, 4.0)
    assert sure_then_not[0] > 4 > sure_then_not[1]


@every_strategy
def test_the_mean_temperature_is_the_base(strategy: Strategy) -> None:
    assert strategy(*logits(3, 4, 5), 4.0).mean().item() == pytest.approx(4.0)


@every_strategy
def test_each_prediction_of_a_sequence_has_a_temperature(strategy: Strategy) -> None:
    student, teacher = logits(2, 3, 5)
    found = strategy(student, teacher, 4.0)
    assert isinstance(found, Tensor) and found.shape == (2, 3)
    torch.testing.assert_close(found.flatten(), strategy(student.flatten(0, 1), teacher.flatten(0, 1), 4.0))


@every_strategy
def test_a_temperature_has_no_gradient(strategy: Strategy) -> None:
    student, teacher = logits(6, 5)
    assert not strategy(student, teacher.requires_grad_(), 4.0).requires_grad


@every_strategy
@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_zero_logits_have_a_temperature(strategy: Strategy, zero: str) -> None:
    student, teacher = logits(6, 5)
    student, teacher = student.detach() * (zero == "teacher"), teacher * (zero == "student")
    assert strategy(student, teacher, 4.0).isfinite().all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_equal_logits_are_no_distance_apart_whatever_rounding_does(gamma: float) -> None:
    same = 1e6 * torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    found = FLSW(1.0, gamma, eps=0.0)(same, same, 4.0)
    torch.testing.assert_close(found, torch.full((1000,), 4.0), atol=2e-3, rtol=0)


def test_constant_is_the_base() -> None:
    assert constant(*logits(6, 5), 4.0) == 4.0
    assert temperatures(constant, *logits(6, 5), 4.0) == 4.0


# The lowest temperature


def test_a_temperature_is_never_below_a_share_of_the_base() -> None:
    assert 0 < LOWEST_SHARE < 1
    student, teacher = logits(6, 5)
    raw = FLSW(40.0, 2.0)(student, teacher, 4.0)
    found = temperatures(FLSW(40.0, 2.0), student, teacher, 4.0)
    assert isinstance(found, Tensor) and raw.min() < 0
    assert found.tolist() == [max(value, 0.1 * 4.0) for value in raw.tolist()]


@pytest.mark.parametrize("loss", [SoftCrossEntropy, ForwardKL, LogitMSE])
def test_a_strong_strategy_turns_no_preference_around(loss: type[LogitsLoss]) -> None:
    student, teacher = logits(2, 3, 5)
    value = loss(4.0, strategy=FLSW(40.0, 2.0))({LOGITS: student}, {LOGITS: teacher}, {"logits": torch.ones(2, 3)})
    value.backward()
    assert value.isfinite() and student.grad is not None
    found = temperatures(FLSW(40.0, 2.0), student.flatten(0, 1), teacher.flatten(0, 1), 4.0)
    assert isinstance(found, Tensor)
    each = zip(student.flatten(0, 1), teacher.flatten(0, 1), found.tolist(), strict=True)
    expected = sum(loss(t)({LOGITS: s[None]}, {LOGITS: teach[None]}, {"logits": torch.ones(1, 1)})
                   for s, teach, t in each)
    torch.testing.assert_close(value.detach(), expected.detach())


def test_a_user_s_own_strategy_may_give_a_number() -> None:
    student, teacher = logits(2, 3, 5)
    sides = {LOGITS: student}, {LOGITS: teacher}, {"logits": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    seen: list[tuple[int, ...]] = []

    def double(student_NC: Tensor, teacher_NC: Tensor, base: float) -> float:
        seen.append((*student_NC.shape, *teacher_NC.shape))
        return 2 * base

    torch.testing.assert_close(ForwardKL(2.0, strategy=double)(*sides), ForwardKL(4.0)(*sides))
    assert seen == [(3, 5, 3, 5)]
    function = FunctionLogitsLoss(lambda s, t, temperature: (s - t).square().mean() / temperature, 2.0, strategy=double)
    torch.testing.assert_close(2 * function(*sides), FunctionLogitsLoss(function.function, 2.0)(*sides))


# By name


@pytest.mark.parametrize(("listed", "made"), [
    (["flsw", 1.5, 2], FLSW(1.5, 2)), (("flsw", 1.5, 2), FLSW(1.5, 2)), (["flsw", 1, 2, 0.1], FLSW(1, 2, eps=0.1)),
    (["flsw", {"beta": 1.5, "gamma": 2}], FLSW(1.5, 2)), (["cwsm", 3.0], CWSM(3.0)),
    (["cwsm", {"beta": 3.0}], CWSM(3.0)), ("constant", constant), (["constant"], constant),
])
def test_a_list_makes_a_strategy(listed: str | list[object], made: Callable[..., object]) -> None:
    assert strategy_of(listed) == TEMPERATURE_SCHEDULER[listed] == made
    student, teacher = logits(6, 5)
    given = listed if isinstance(listed, str) else list(listed)
    found, expected = (torch.as_tensor(s(student, teacher, 4.0)) for s in (NamedStrategy(given), made))
    assert found.equal(expected)


@pytest.mark.parametrize(("choice", "message"), [
    ("flsw", r"strategy 'flsw' missing 2 required positional arguments: 'beta' and 'gamma'; write \[flsw, ARGUMENT"),
    (["flsw"], r"strategy \['flsw'\] missing 2 required positional arguments: 'beta' and 'gamma'"),
    (["flsw", 1], r"missing 1 required positional argument: 'gamma'; write .* as in \[flsw, 1, 2\] \(beta, gamma\)"),
    (["flsw", 1, 2, 3, 4], r"\['flsw', 1, 2, 3, 4\] takes from 3 to 4 positional arguments but 5 were given"),
    ("cwsm", r"missing 1 required positional argument: 'beta'; write .* or \[cwsm, 1\] \(beta\)"),
    (["cwsm", 1, 2], "takes 2 positional arguments but 3 were given"),
    (["cwsm", {"gamma": 1}], "unexpected keyword argument 'gamma'"),
    (["constant", 1], "missing 2 required positional arguments"),
    ("flws", r"unknown temperature strategy 'flws': did you mean 'flsw'\? Known: constant, cwsm, flsw"),
    (["warm", 1], r"unknown temperature strategy 'warm'\. Known: constant, cwsm, flsw"),
    ([], "unknown temperature strategy ''"), ([1, 2], "unknown temperature strategy '1'"),
])
def test_a_choice_that_makes_no_strategy_is_refused(choice: str | list[object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy_of(choice)
    with pytest.raises(ConfigError, match=message):
        NamedStrategy(choice)
