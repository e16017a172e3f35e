"""Matches between modules: by path in a configuration, by path or module in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import DistillationConfig, GeneralDistiller, MultiTaskDistiller, MultiTeacherDistiller
from stillhouse.adaptors import FunctionAdaptor
from stillhouse.errors import ConfigError, OutputError, PlanError
from stillhouse.terms import CustomMatch

from .toys import (
    STUDENT,
    TEACHER,
    Reading,
    adaptor,
    basic,
    batches,
    general,
    kd,
    logits_only,
    sgd,
    slices,
    student,
    tconf,
    teacher,
    token_batch,
    weights,
)

POOLERS = {"module_T": "pooler", "module_S": "pooler", "loss": "cos", "proj": ["linear", 6, 8]}
LAYERS = {"module_T": "layers.2", "module_S": "layers.1", "loss": "hidden_mse", "proj": ["linear", 6, 8]}


def outputs_of(model: nn.Module, path: str, x: Tensor) -> Tensor:
    """What a module gave in a forward, by a hook of the test's own."""
    kept: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda module, args, output: kept.append(output))
    model(x)
    handle.remove()
    return kept[0]


def num_hooks(*models: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for m in models for module in m.modules())


def cosine(s: Tensor, t: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(s, t, dim=-1)).mean()


def test_the_poolers_of_both_models_are_compared_row_by_row(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=[POOLERS | {"weight": 3}])
    x, _ = batches()[0]
    total, parts = distiller.train_on_batch((x,))
    s, t = outputs_of(distiller.model_S, "pooler", x), outputs_of(distiller.model_T, "pooler", x)
    assert s.shape == (6, 6)
    projection = distiller.plan.objective.losses["unweighted_module_cos_pooler_pooler"].projection
    match = cosine(projection(s), t)
    torch.testing.assert_close(parts["unweighted_module_cos_pooler_pooler"], match.detach())
    k = kd(distiller.model_S(x)["logits"], distiller.model_T(x)["logits"]).mean()
    torch.testing.assert_close(total, k + 3 * match)


@pytest.mark.parametrize("masked", [False, True])
def test_outputs_of_tokens_are_compared_under_the_mask(tmp_path: Path, masked: bool) -> None:
    def with_mask(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"]} | ({"inputs_mask": batch["mask"]} if masked else {})

    batch = token_batch()
    distiller = general(tmp_path, logits_only, with_mask, model=Reading, kd_loss_weight=0,
                        intermediate_matches=[LAYERS])
    s, t = outputs_of(distiller.model_S, "layers.1", batch["x"]), outputs_of(distiller.model_T, "layers.2", batch["x"])
    name = "unweighted_module_hidden_mse_layers.1_layers.2"
    projection = distiller.plan.objective.terms[name].loss.projection
    kept = batch["mask"].bool() if masked else slice(None)
    total, parts = distiller.train_on_batch(batch)
    assert set(parts) == {name}
    torch.testing.assert_close(total, F.mse_loss(projection(s)[kept], t[kept]))


def test_rows_and_tokens_and_layers_may_be_matched_side_by_side(tmp_path: Path) -> None:
    layers = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "proj": ["linear", 6, 8]}
    distiller = general(tmp_path, kd_loss_weight=0, intermediate_matches=[POOLERS, LAYERS, layers, POOLERS])
    x, _ = batches()[0]
    total, parts = distiller.train_on_batch((x,))
    assert [name.removeprefix("unweighted_") for name in parts] == [
        "module_cos_pooler_pooler", "module_hidden_mse_layers.1_layers.2", "hidden_hidden_mse_0_0",
        "module_cos_pooler_pooler#2"]
    wanted = torch.zeros((), dtype=x.dtype)
    for term, (path_S, path_T, loss) in zip(distiller.plan.objective.terms.values(), [
        ("", "", None), ("", "", None), ("pooler", "pooler", cosine), ("layers.1", "layers.2", F.mse_loss),
        ("layers.0", "layers.0", None), ("pooler", "pooler", cosine),
    ], strict=True):
        if loss is not None:
            s, t = outputs_of(distiller.model_S, path_S, x), outputs_of(distiller.model_T, path_T, x)
            wanted = wanted + loss(term.loss.projection(s), t)
        elif path_S:
            hidden_S, hidden_T = distiller.model_S(x)["hidden"][0], distiller.model_T(x)["hidden"][0]
            wanted = wanted + F.mse_loss(term.loss.projection(hidden_S), hidden_T)
    torch.testing.assert_close(total, wanted)


# Made in code


@pytest.mark.parametrize("as_modules", [False, True])
def test_custom_matches_take_modules_or_paths(tmp_path: Path, as_modules: bool) -> None:
    models = teacher(), student()
    projection = nn.Linear(6, 8).double()
    modules: tuple[Any, Any] = (models[0].layers[2], models[1].layers[1]) if as_modules else ("layers.2", "layers.1")
    match = CustomMatch(*modules, weight=2.5, loss="hidden_mse", proj_func=projection, proj_group={"lr": 0.7})
    distiller = GeneralDistiller(tconf(tmp_path), DistillationConfig(), *models, adaptor, adaptor,
                                 custom_matches=[match])
    x, _ = batches()[0]
    total, parts = distiller.train_on_batch((x,))
    s, t = outputs_of(models[1], "layers.1", x), outputs_of(models[0], "layers.2", x)
    wanted = kd(models[1](x)["logits"], models[0](x)["logits"]).mean() + 2.5 * F.mse_loss(projection(s), t)
    torch.testing.assert_close(total, wanted)
    assert "unweighted_module_hidden_mse_layers.1_layers.2" in parts
    optimizer, before = sgd(models[1]), weights(projection)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(wanted, list(projection.parameters()))])
    distiller.train(optimizer, [(x,)], num_epochs=1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.7]
    torch.testing.assert_close(weights(projection), before - 0.7 * gradient)


def test_a_custom_loss_gets_both_outputs_and_a_mask_for_each_side(tmp_path: Path) -> None:
    seen = []

    def mine(out_S: Tensor, out_T: Tensor, mask_S: Tensor, mask_T: Tensor) -> Tensor:
        seen.append((out_S.shape, out_T.shape, mask_S, mask_T))
        weight = mask_S.to(out_S.dtype)
        return ((out_S.sum(-1) - out_T.sum(-1)).square() * weight).sum() / weight.sum()

    def with_mask(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"], "inputs_mask": batch["mask"]}

    batch = token_batch()
    distiller = general(tmp_path, with_mask, with_mask, model=Reading, kd_loss_weight=0,
                        custom_matches=[CustomMatch("layers.2", "layers.1", 1.5, mine)])
    total, parts = distiller.train_on_batch(batch)
    s, t = outputs_of(distiller.model_S, "layers.1", batch["x"]), outputs_of(distiller.model_T, "layers.2", batch["x"])
    torch.testing.assert_close(total, 1.5 * (s.sum(-1) - t.sum(-1)).square()[batch["mask"].bool()].mean())
    ((shape_S, shape_T, mask_S, mask_T),) = seen
    assert (shape_S, shape_T) == ((6, 5, 6), (6, 5, 8))
    assert mask_S.tolist() == mask_T.tolist() == batch["mask"].tolist()
    assert set(parts) == {"unweighted_module_mine_layers.1_layers.2"}


def test_custom_matches_stand_beside_configured_ones(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=[POOLERS],
                        custom_matches=[CustomMatch("layers.0", "layers.0", 1, lambda s, t, ms, mt: s.sum() * 0)])
    names = set(distiller.train_on_batch(batches()[0])[1])
    assert names == {"unweighted_kd_loss", "unweighted_module_cos_pooler_pooler",
                     "unweighted_module_<lambda>_layers.0_layers.0"}


# Training


def test_hooks_are_gone_after_training_and_after_an_error(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=[POOLERS])
    distiller.train(sgd(distiller.model_S), batches(2), num_epochs=2)
    assert num_hooks(distiller.model_T, distiller.model_S) == 0
    with pytest.raises(TypeError):
        distiller.train_on_batch({"nonsense": torch.zeros(1)})
    assert num_hooks(distiller.model_T, distiller.model_S) == 0


def test_a_callbacks_evaluation_does_not_disturb(tmp_path: Path) -> None:
    found = []
    for evaluate in (False, True):
        torch.manual_seed(0)
        distiller = general(tmp_path, intermediate_matches=[POOLERS], training={"ckpt_steps": 1})

        def callback(model: nn.Module, step: int, evaluate: bool = evaluate) -> None:
            if evaluate:
                assert num_hooks(model) == 0
                with torch.no_grad():
                    model(torch.randn(3, 2, 4, dtype=torch.float64))

        distiller.train(sgd(distiller.model_S), batches(2), num_steps=4, callback=callback)
        found.append(weights(distiller.model_S))
    assert torch.equal(*found)


@pytest.mark.filterwarnings("ignore:gradient accumulation with masks that only the model's outputs tell")
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("match", [POOLERS, LAYERS], ids=["rows", "tokens"])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 4, 1)], ids=str)
def test_accumulation_gives_the_gradient_of_one_large_batch(
    tmp_path: Path, declared: bool, match: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    def masked(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["tokens"], "logits_mask": batch["other"], "inputs_mask": batch["mask"]}

    def masks(batch: Any) -> dict[str, Any]:
        return {"logits_mask": batch["other"], "inputs_mask": batch["mask"]}

    batch, found = token_batch(), []
    for micro_batches in ([batch], slices(batch, *sizes)):
        torch.manual_seed(0)
        of_student = FunctionAdaptor(masked, masks=masks) if declared else masked
        distiller = general(tmp_path, masked, of_student, model=Reading, intermediate_matches=[match],
                            training={"gradient_accumulation_steps": len(micro_batches)})
        distiller.train(sgd(distiller.model_S), micro_batches, num_epochs=1)
        found.append(torch.cat([weights(distiller.model_S), weights(distiller.plan.objective)]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_accumulation_without_any_mask_is_exact_too(tmp_path: Path) -> None:
    x, found = batches(1)[0][0], []
    for micro_batches in ([(x,)], [(x[:1],), (x[1:4],), (x[4:],)]):
        torch.manual_seed(0)
        distiller = general(tmp_path, logits_only, logits_only, intermediate_matches=[POOLERS],
                            training={"gradient_accumulation_steps": len(micro_batches)})
        distiller.train(sgd(distiller.model_S), micro_batches, num_epochs=1)
        assert len(distiller.model_S.calls) == len(micro_batches)
        found.append(torch.cat([weights(distiller.model_S), weights(distiller.plan.objective)]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_other_distillers_match_modules_too(tmp_path: Path) -> None:
    x, _ = batches()[0]
    config = DistillationConfig(kd_loss_weight=0, intermediate_matches=[POOLERS])
    teachers = [teacher(1), teacher(3)]
    several = MultiTeacherDistiller(tconf(tmp_path), config, teachers, student(), adaptor, adaptor, match_teacher=1)
    tasks = MultiTaskDistiller(tconf(tmp_path), config, {"a": teachers[1]}, student(), {"a": adaptor}, {"a": adaptor})
    t = outputs_of(teachers[1], "pooler", x)
    for distiller, task in ((several, "default"), (tasks, "a")):
        total, _ = distiller.train_on_batch((x,), task=task)
        term = distiller.plan.objective.for_task(task).terms["unweighted_module_cos_pooler_pooler"]
        s = outputs_of(distiller.model_S, "pooler", x)
        torch.testing.assert_close(total, cosine(term.loss.projection(s), t))


# What cannot work


@pytest.mark.parametrize(("side", "path", "near"), [("S", "poolr", "pooler"), ("T", "layer.2", "layers.2")])
def test_an_unknown_path_is_refused_with_the_nearest_before_anything_runs(
    tmp_path: Path, side: str, path: str, near: str
) -> None:
    with pytest.raises(PlanError, match=rf"Toy has no module '{path}'; did you mean '{near}'"):
        general(tmp_path, intermediate_matches=[POOLERS | {f"module_{side}": path}])


def test_custom_matches_of_other_models_and_unknown_losses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="a custom match names a Linear that is no module inside Toy"):
        general(tmp_path, custom_matches=[CustomMatch(nn.Linear(1, 1), "pooler", 1, "cos")])
    with pytest.raises(PlanError, match="has no module 'poler'; did you mean 'pooler'"):
        general(tmp_path, custom_matches=[CustomMatch("pooler", "poler", 1, "cos")])
    with pytest.raises(ConfigError, match="unknown match loss 'coz'"):
        general(tmp_path, custom_matches=[CustomMatch("pooler", "pooler", 1, "coz")])


@pytest.mark.parametrize("side", ["T", "S"])
def test_a_module_that_the_forward_does_not_reach_is_named(tmp_path: Path, side: str) -> None:
    distiller = general(tmp_path, intermediate_matches=[POOLERS | {f"module_{side}": "unused"}])
    with pytest.raises(OutputError, match="the forward of Toy did not reach unused"):
        distiller.train_on_batch(batches()[0])


def test_known_widths_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    assert TEACHER["width"] != STUDENT["width"]
    with pytest.raises(PlanError, match=r"needs a projection: in a configuration, proj: \[linear, 6, 8\]"):
        general(tmp_path, intermediate_matches=[POOLERS | {"proj": None}])
    with pytest.raises(PlanError, match="expects a student width of 5, but the student is 6 wide"):
        general(tmp_path, intermediate_matches=[POOLERS | {"proj": ["linear", 5, 8]}])


def test_a_distiller_of_logits_says_that_it_ignores_them(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="BasicDistiller ignores intermediate_matches"):
        basic(tmp_path, intermediate_matches=[POOLERS])
