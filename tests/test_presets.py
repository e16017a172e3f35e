"""The maps of named choices: callable as the paper says, and carrying the losses that training uses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse import DistillationConfig, presets, register_new
from stillhouse.errors import ConfigError
from stillhouse.losses import FunctionLogitsLoss, FunctionLoss, LogitsLoss, MatchLoss
from stillhouse.losses.temperature import CWSM, FLSW
from stillhouse.presets import (
    KD_LOSS_MAP,
    MATCH_LOSS_MAP,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
    NamedStrategy,
    kd_loss,
    match_kind,
    match_loss,
    strategy_of,
)
from stillhouse.projections import Projection, linear
from stillhouse.types import LABELS, LOGITS, Key

MASK = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]])
WIDTH, HEADS = 5, 2
A, B = Key("hidden", 1), Key("hidden", 2)
every_match = pytest.mark.parametrize("name", MATCH_LOSS_MAP)
every_kd = pytest.mark.parametrize("name", KD_LOSS_MAP)


@pytest.fixture(autouse=True)
def maps_as_they_were() -> Iterator[None]:
    """Undo what a test registers."""
    maps: list[MutableMapping[str, Any]] = [KD_LOSS_MAP, MATCH_LOSS_MAP, PROJ_MAP, WEIGHT_SCHEDULER,
                                            TEMPERATURE_SCHEDULER]
    before = [dict(each) for each in maps]
    yield
    for each, names in zip(maps, before, strict=True):
        each.clear()
        each.update(names)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number_of_layers(kind: type[MatchLoss]) -> int:
    return 3 if kind.num_layers is None else kind.num_layers


def tensors_of(kind: type[MatchLoss], seed: int) -> list[Tensor]:
    shape = (3, 4, WIDTH) if kind.reads == "hidden" else (3, HEADS, 4, 4)
    return list(random(number_of_layers(kind), *shape, seed=seed))


# Losses between logits


def test_every_published_name_is_there() -> None:
    assert set(KD_LOSS_MAP) == {"ce", "mse", "forward_kl", "bernoulli_kl"}
    assert {"hidden_mse", "cos", "pkd", "fsp", "gram", "nst", "mmd", "attention_mse", "attention_mse_sum",
            "attention_ce", "attention_ce_mean", "emd", "emd_cost_attention"} == set(MATCH_LOSS_MAP)
    assert set(PROJ_MAP) == {"linear", "relu", "tanh"} and presets.FEATURES == ["hidden", "attention"]
    assert set(TEMPERATURE_SCHEDULER) == {"constant", "flsw", "cwsm"}
    assert set(WEIGHT_SCHEDULER) == {"linear_decay", "linear_growth"}
    assert MATCH_LOSS_MAP["gram"] == MATCH_LOSS_MAP["fsp"] and MATCH_LOSS_MAP["mmd"] == MATCH_LOSS_MAP["nst"]


def published_kd(name: str, student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """The formulas written down; the temperature broadcasts."""
    s, t = student / temperature, teacher / temperature
    p, logq = t.exp() / t.exp().sum(-1, keepdim=True), s - s.exp().sum(-1, keepdim=True).log()
    each = {"ce": -(p * logq).sum(-1), "mse": (s - t).square().sum(-1) / s.shape[-1],
            "forward_kl": (p * (p.log() - logq)).sum(-1) * temperature.squeeze(-1) ** 2,
            "bernoulli_kl": _yes_or_no(t.sigmoid(), s.sigmoid()).mean(-1) * temperature.squeeze(-1) ** 2}
    return each[name].mean()


def _yes_or_no(p: Tensor, q: Tensor) -> Tensor:
    return p * (p.log() - q.log()) + (1 - p) * ((1 - p).log() - (1 - q).log())


@every_kd
@pytest.mark.parametrize("shape", [(6, WIDTH), (3, 4, WIDTH)])
@pytest.mark.parametrize("per_prediction", [False, True])
@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_a_kd_preset_is_a_mean_over_every_position(name: str, shape: tuple[int, ...], per_prediction: bool,
                                                   kind: str) -> None:
    student, teacher = random(*shape), random(*shape, seed=1)
    temperature: Any = 2.5 if kind == "number" else torch.tensor(2.5)
    if per_prediction:
        temperature = 1 + 3 * torch.rand(shape[:-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.as_tensor(temperature, dtype=torch.float64)
    expected = published_kd(name, student, teacher, wanted.unsqueeze(-1) if per_prediction else wanted.reshape(1))
    torch.testing.assert_close(KD_LOSS_MAP[name](student, teacher, temperature), expected)


@every_kd
def test_a_kd_preset_has_a_temperature_of_one_unless_it_is_given(name: str) -> None:
    student, teacher = random(6, WIDTH), random(6, WIDTH, seed=1)
    assert KD_LOSS_MAP[name](student, teacher) == KD_LOSS_MAP[name](student, teacher, temperature=1)


@every_kd
def test_a_kd_preset_carries_the_loss_that_training_uses(name: str) -> None:
    preset: Any = KD_LOSS_MAP[name]
    assert issubclass(preset.loss, LogitsLoss) and type(kd_loss(name, 2.0)) is preset.loss
    student, teacher = random(3, 4, WIDTH).requires_grad_(), random(3, 4, WIDTH, seed=1)
    total = kd_loss(name, 2.0)({LOGITS: student}, {LOGITS: teacher}, {"logits": MASK})
    mean = preset(student[MASK.ne(0)], teacher[MASK.ne(0)], 2.0)
    torch.testing.assert_close(total / MASK.sum(), mean)
    torch.testing.assert_close(torch.autograd.grad(total / MASK.sum(), student, retain_graph=True),
                               torch.autograd.grad(mean, student))


@every_kd
def test_options_reach_the_loss(name: str) -> None:
    made = kd_loss(name, 3.0, strategy=CWSM(1.0), probability_shift=True)
    assert (made.temperature, made.strategy, made.probability_shift) == (3.0, CWSM(1.0), True)
    student, teacher = random(2, WIDTH), random(2, WIDTH, seed=1)
    labels = torch.tensor([1, -100])
    shifted = teacher.clone()
    top = int(teacher[0].argmax())
    shifted[0, 1], shifted[0, top] = teacher[0, top], teacher[0, 1]
    found = made({LOGITS: student, LABELS: labels}, {LOGITS: teacher}, {"logits": torch.ones(2, 1)})
    torch.testing.assert_close(found / 2, KD_LOSS_MAP[name](student, shifted, CWSM(1.0)(student, shifted, 3.0)))


# Losses between layers


@every_match
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_a_match_preset_is_the_training_loss_s_sum_over_its_count(name: str, dtype: torch.dtype) -> None:
    preset: Any = MATCH_LOSS_MAP[name]
    kind = preset.loss
    student, teacher = tensors_of(kind, 0), tensors_of(kind, 1)
    mask = MASK.to(dtype)
    keys_s, keys_t = ([Key(side, i) for i in range(len(student))] for side in ("s", "t"))
    loss = match_loss(name, keys_s, keys_t)
    assert type(loss) is kind is match_kind(name)
    used = torch.ones_like(mask) if kind.first_only else mask
    total = loss(dict(zip(keys_s, student, strict=True)), dict(zip(keys_t, teacher, strict=True)), {"inputs": used})
    given: list[Any] = [side[0] if len(side) == 1 else side for side in (student, teacher)]
    found = preset(*given, mask=mask)
    torch.testing.assert_close(found, total / loss.over.unit.count(used))
    torch.testing.assert_close(preset(*given, mask), found)
    assert found.dtype == torch.float64 and found.dim() == 0


@every_match
def test_without_a_mask_everything_counts(name: str) -> None:
    preset: Any = MATCH_LOSS_MAP[name]
    student, teacher = tensors_of(preset.loss, 0), tensors_of(preset.loss, 1)
    given: list[Any] = [side[0] if len(side) == 1 else tuple(side) for side in (student, teacher)]
    torch.testing.assert_close(preset(*given), preset(*given, mask=torch.ones(3, 4)))


@every_match
def test_a_preset_over_nothing_is_zero_unless_it_looks_at_no_mask(name: str) -> None:
    preset: Any = MATCH_LOSS_MAP[name]
    student, teacher = tensors_of(preset.loss, 0), tensors_of(preset.loss, 1)
    assert (preset(student, teacher, mask=torch.zeros(3, 4)).item() == 0) == (name != "pkd")


@pytest.mark.parametrize("name", ["hidden_mse", "cos", "pkd", "fsp", "nst"])
def test_a_preset_takes_a_vector_a_row(name: str) -> None:
    preset: Any = MATCH_LOSS_MAP[name]
    student, teacher = tensors_of(preset.loss, 0), tensors_of(preset.loss, 1)
    torch.testing.assert_close(preset([s[:, 0] for s in student], [t[:, 0] for t in teacher]),
                               preset([s[:, :1] for s in student], [t[:, :1] for t in teacher]))


def test_presets_equal_the_published_means() -> None:
    s, t = random(3, 4, WIDTH), random(3, 4, WIDTH, seed=1)
    maps_s, maps_t = random(3, HEADS, 4, 4), random(3, HEADS, 4, 4, seed=1)
    kept, pairs = MASK.ne(0), MASK.ne(0)[:, :, None] & MASK.ne(0)[:, None, :]
    torch.testing.assert_close(MATCH_LOSS_MAP["hidden_mse"](s, t, MASK), (s - t)[kept].square().mean())
    torch.testing.assert_close(MATCH_LOSS_MAP["cos"](s, t, MASK),
                               (1 - nn.functional.cosine_similarity(s, t, dim=-1))[kept].mean())
    first = [side[:, 0] / side[:, 0].norm(dim=-1, keepdim=True) for side in (s, t)]
    torch.testing.assert_close(MATCH_LOSS_MAP["pkd"](s, t, MASK), (first[0] - first[1]).square().sum(-1).mean())
    torch.testing.assert_close(MATCH_LOSS_MAP["attention_mse"](maps_s, maps_t, MASK),
                               (maps_s - maps_t).square().mean(dim=1)[pairs].mean())
    torch.testing.assert_close(MATCH_LOSS_MAP["attention_mse_sum"](maps_s, maps_t, MASK),
                               (maps_s - maps_t).sum(dim=1).square()[pairs].mean())
    similarities = [(side @ side.mT) / WIDTH for side in (s, t)]
    torch.testing.assert_close(MATCH_LOSS_MAP["nst"]([s, s], [t, t], MASK),
                               (similarities[0] - similarities[1])[pairs].square().mean())


def test_projections_are_made_one_for_all_or_one_for_each() -> None:
    made = match_loss("nst", [A, A], [B, B], lambda: linear(4, 6))
    assert len(list(made.parameters())) == 2
    each = match_loss("emd", [A, A, A], [B, B], lambda: linear(4, 6))
    assert len(list(each.parameters())) == 6
    with pytest.raises(ConfigError, match="attention_ce compares attention maps, which need no projection; drop proj"):
        match_loss("attention_ce", [A], [B], lambda: linear(4, 6))


@pytest.mark.parametrize("name", PROJ_MAP)
def test_a_projection_is_made_of_two_widths(name: str) -> None:
    made = PROJ_MAP[name](4, 6)
    assert isinstance(made, Projection) and made(torch.zeros(2, 4)).shape == (2, 6)


@pytest.mark.parametrize("x", [0.0, 0.25, 1.0])
def test_schedules_are_straight_lines(x: float) -> None:
    assert WEIGHT_SCHEDULER["linear_decay"](x) == 1 - x and WEIGHT_SCHEDULER["linear_growth"](x) == x


# What users add


def own_kd(logits_S: Tensor, logits_T: Tensor, temperature: float | Tensor = 1) -> Tensor:
    return (logits_S - logits_T).abs().mean()


def own_match(state_S: Tensor, state_T: Tensor, mask: Tensor | None = None) -> Tensor:
    assert mask is not None
    return (state_S - state_T)[mask.ne(0)].abs().mean()


def own_projection(dim_S: int, dim_T: int) -> nn.Module:
    return nn.Linear(dim_S, dim_T, bias=False)


def own_schedule(x: float) -> float:
    return x * x


def own_strategy(logits_S: Tensor, logits_T: Tensor, base_temperature: float) -> float:
    return 2 * base_temperature


OWN: list[tuple[str, MutableMapping[Any, Any], Callable[..., Any]]] = [
    ("kd_loss", KD_LOSS_MAP, own_kd), ("match_loss", MATCH_LOSS_MAP, own_match), ("projection", PROJ_MAP,
                                                                                   own_projection),
    ("match_Loss", MATCH_LOSS_MAP, own_match), ("weight_scheduler", WEIGHT_SCHEDULER, own_schedule),
    ("temperature_scheduler", TEMPERATURE_SCHEDULER, own_strategy),
]


def config_with_own(**others: Any) -> DistillationConfig:
    match = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "own", "proj": ["own", 4, 6]}
    return DistillationConfig(kd_loss_type="own", kd_loss_weight_scheduler="own", temperature_scheduler="own",
                              intermediate_matches=[match], **others)


@pytest.mark.parametrize("how", ["register_new", "assignment"])
def test_what_a_user_adds_is_a_configuration_value_at_once(how: str) -> None:
    with pytest.raises(ConfigError, match="own"):
        config_with_own()
    for name, names, function in OWN:
        if how == "register_new":
            register_new(name, "own", function)
        else:
            names["own"] = function
        assert names["own"] is function
    config = config_with_own(temperature=3)
    assert config == DistillationConfig.from_dict(config.to_dict())
    assert config.temperature_scheduler is not None
    assert config.temperature_scheduler(torch.zeros(1, 2), torch.zeros(1, 2), 3.0) == 6.0


def test_a_function_becomes_a_loss_with_the_same_mean() -> None:
    register_new("kd_loss", "own", own_kd)
    register_new("match_loss", "own", own_match)
    student, teacher = random(3, 4, WIDTH), random(3, 4, WIDTH, seed=1)
    kd, match = kd_loss("own", 2.0, probability_shift=False), match_loss("own", [A], [B])
    assert isinstance(kd, FunctionLogitsLoss) and isinstance(match, FunctionLoss) and match_kind("own") is None
    expected = (student - teacher)[MASK.ne(0)].abs().mean() * MASK.sum()
    torch.testing.assert_close(kd({LOGITS: student}, {LOGITS: teacher}, {"logits": MASK}), expected)
    torch.testing.assert_close(match({A: student}, {B: teacher}, {"inputs": MASK}), expected)


def test_a_projection_goes_with_a_function_too() -> None:
    register_new("match_loss", "own", own_match)
    assert len(list(match_loss("own", [A], [B], lambda: linear(4, 6)).parameters())) == 2


def test_an_unknown_map_and_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown map 'kd_los': did you mean 'kd_loss'"):
        register_new("kd_los", "own", own_kd)
    with pytest.raises(ConfigError, match="unknown kd_loss_type 'kl'"):
        kd_loss("kl", 1.0)
    with pytest.raises(ConfigError, match="unknown match loss 'hidden_msee': did you mean 'hidden_mse'"):
        match_loss("hidden_msee", [A], [B])


# Temperature strategies


def test_the_map_of_strategies_is_a_dictionary() -> None:
    assert len(TEMPERATURE_SCHEDULER) == 3 and "flsw" in TEMPERATURE_SCHEDULER
    assert TEMPERATURE_SCHEDULER["flsw"] is FLSW and TEMPERATURE_SCHEDULER.get("warm") is None
    assert dict(TEMPERATURE_SCHEDULER.items())["cwsm"] is CWSM
    TEMPERATURE_SCHEDULER["own"] = own_strategy
    assert TEMPERATURE_SCHEDULER["own"] is TEMPERATURE_SCHEDULER[["own"]] is own_strategy
    del TEMPERATURE_SCHEDULER["own"]
    assert "own" not in TEMPERATURE_SCHEDULER
    with pytest.raises(KeyError):
        TEMPERATURE_SCHEDULER["own"]


def test_a_user_s_own_strategy_may_be_made_with_arguments() -> None:
    def scaled(factor: float) -> Callable[..., float]:
        return lambda logits_S, logits_T, base: factor * base

    register_new("temperature_scheduler", "scaled", scaled)
    for choice in (["scaled", 2.0], ["scaled", {"factor": 2.0}]):
        assert NamedStrategy(choice)(torch.zeros(1, 2), torch.zeros(1, 2), 3.0) == 6.0


@pytest.mark.parametrize("choice", ["constant", ["flsw", 1.5, 2], ["cwsm", {"beta": 3.0}]])
def test_a_named_strategy_is_a_plain_value(choice: str | list[Any]) -> None:
    strategy = NamedStrategy(choice)
    for twin in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
        assert twin == strategy
    assert strategy != NamedStrategy(["flsw", 9, 9])
    config = DistillationConfig(temperature_scheduler=choice)
    assert config.temperature_scheduler == strategy
    assert pickle.loads(pickle.dumps(config)) == config == DistillationConfig(**config.to_dict())


def test_strategies_need_numbers_and_say_so() -> None:
    with pytest.raises(ConfigError, match="takes numbers, and beta is 'a'"):
        strategy_of(["flsw", "a", 2])


def test_a_constant_strategy_is_none_in_any_spelling() -> None:
    for choice in ("constant", ["constant"]):
        assert kd_loss("ce", 2.0, strategy=NamedStrategy(choice)).scope == "rows"


def test_one_vector_a_row_may_come_with_a_mask_of_positions() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    wanted = (student - teacher).square().mean(-1)[[0, 2]].mean()
    torch.testing.assert_close(MATCH_LOSS_MAP["hidden_mse"](student, teacher, mask=mask), wanted)


@every_match
def test_half_precision_does_not_overflow_in_the_count(name: str) -> None:
    preset: Any = MATCH_LOSS_MAP[name]
    long = torch.ones(4, 300)
    width = (4, 2, 300, 300) if preset.loss.reads == "attention" else (4, 300, 8)
    layers = preset.loss.num_layers or 2
    student, teacher = ([torch.randn(width, generator=torch.Generator().manual_seed(i + 9 * side)).half()
                         for i in range(layers)] for side in (0, 1))
    given: list[Any] = [side[0] if layers == 1 else side for side in (student, teacher)]
    full = [[t.float() for t in side] if isinstance(side, list) else side.float() for side in given]
    wanted = preset(*full, mask=long)
    torch.testing.assert_close(preset(*given, mask=long), wanted)
