"""Forms of batches, and what adaptors may return: heads, masks, losses, labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import BasicTrainer
from stillhouse.errors import OutputError

from .toys import MATCH, Reading, adaptor, basic, batches, general, kd, logits_only, sgd, student, tconf, token_batch

T = 4.0


def test_the_total_is_the_weighted_sum_of_its_parts(tmp_path: Path) -> None:
    distiller = general(tmp_path, temperature=2, hard_label_weight=0.5, kd_loss_weight=3, intermediate_matches=[MATCH])
    total, parts = distiller.train_on_batch(batches()[0], {})
    assert set(parts) == {"unweighted_kd_loss", "unweighted_hard_label_loss", "unweighted_hidden_hidden_mse_1_2"}
    wanted = (3 * parts["unweighted_kd_loss"] + 0.5 * parts["unweighted_hard_label_loss"]
              + 2.0 * parts["unweighted_hidden_hidden_mse_1_2"])
    torch.testing.assert_close(total.detach(), wanted)
    total.backward()
    assert all(p.grad is not None for p in distiller.model_S.layers.parameters())
    assert all(p.grad is not None for p in distiller.plan.objective.parameters())


def test_parts_equal_the_formulas_written_down(tmp_path: Path) -> None:
    distiller = general(tmp_path, temperature=2, hard_label_weight=0.5, intermediate_matches=[MATCH])
    x, labels = batches()[0]
    _, parts = distiller.train_on_batch((x, labels), {})
    s, t = distiller.model_S(x, labels), distiller.model_T(x)
    projection = distiller.plan.objective.losses["unweighted_hidden_hidden_mse_1_2"].projection
    match = F.mse_loss(projection(s["hidden"][1]), t["hidden"][2])
    for name, value in (("kd_loss", kd(s["logits"], t["logits"], 2).mean()), ("hard_label_loss", s["loss"]),
                        ("hidden_hidden_mse_1_2", match)):
        torch.testing.assert_close(parts[f"unweighted_{name}"], value.detach())


# Forms of batches


def test_batches_may_be_tuples_mappings_or_one_for_each_side(tmp_path: Path) -> None:
    x, labels = batches()[0]
    distiller = basic(tmp_path, hard_label_weight=1)
    values = [float(distiller.train_on_batch(batch, {})[0].detach()) for batch in (
        (x, labels), [x, labels], {"x": x, "labels": labels}, {"teacher": {"x": x}, "student": (x, labels)},
        {"teacher": (x,), "student": {"x": x, "labels": labels}},
    )]
    assert values == pytest.approx([values[0]] * 5)


def test_each_side_may_read_inputs_of_its_own(tmp_path: Path) -> None:
    (x, _), (other, _) = batches(2)
    distiller = basic(tmp_path)
    total, _ = distiller.train_on_batch({"teacher": (other,), "student": {"x": x}})
    wanted = kd(distiller.model_S(x)["logits"], distiller.model_T(other)["logits"]).mean()
    torch.testing.assert_close(total, wanted)


def test_ready_made_outputs_take_the_place_of_the_teachers_forward(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=[MATCH])
    x, _ = batches()[0]
    ready = {"logits": torch.randn(6, 3, dtype=x.dtype), "hidden": [None, None, torch.randn(6, 5, 8, dtype=x.dtype)],
             "loss": None}
    batch = {"teacher": {"x": x}, "student": {"x": x}, "teacher_cache": ready}
    distiller.train(sgd(distiller.model_S), [batch] * 2, num_epochs=2)
    assert distiller.model_T.calls == [] and len(distiller.model_S.calls) == 4
    total, _ = distiller.train_on_batch(batch)
    s = distiller.model_S(x)
    projection = distiller.plan.objective.losses["unweighted_hidden_hidden_mse_1_2"].projection
    hidden = ready["hidden"][2]
    assert isinstance(hidden, Tensor) and isinstance(ready["logits"], Tensor)
    wanted = kd(s["logits"], ready["logits"]).mean() + 2 * F.mse_loss(projection(s["hidden"][1]), hidden)
    torch.testing.assert_close(total, wanted)


def test_the_adaptor_of_ready_made_outputs_sees_the_teachers_batch(tmp_path: Path) -> None:
    seen = []

    def of_teacher(batch: Any, out: Any) -> dict[str, Any]:
        seen.append(set(batch))
        return {"logits": out}

    x, _ = batches()[0]
    distiller = basic(tmp_path, adaptor_T=of_teacher)
    batch = {"teacher": {"ids": x}, "student": {"x": x}, "teacher_cache": torch.zeros(6, 3, dtype=x.dtype)}
    total, _ = distiller.train_on_batch(batch)
    assert seen == [{"ids"}]
    torch.testing.assert_close(total, -distiller.model_S(x)["logits"].div(T).log_softmax(-1).mean())


def test_a_postprocessor_makes_of_each_batch_what_is_trained_on(tmp_path: Path) -> None:
    seen = []

    def postprocess(batch: Any) -> dict[str, Any]:
        seen.append(batch)
        return {"x": -batch[0]}

    distiller = basic(tmp_path, training={"log_every": 1})
    x, labels = batches(1)[0]
    before = student()
    distiller.train(sgd(distiller.model_S), [(x, labels)], num_epochs=1, batch_postprocessor=postprocess)
    loss = kd(before(-x)["logits"], distiller.model_T(-x)["logits"].detach()).mean()
    (gradient,) = torch.autograd.grad(loss, [before.out.weight])
    torch.testing.assert_close(distiller.model_S.out.weight.detach(), (before.out.weight - 0.1 * gradient).detach())
    assert len(seen) == 1 and seen[0][0] is x


def test_extra_arguments_reach_both_models_in_training_too(tmp_path: Path) -> None:
    distiller = basic(tmp_path)
    x, _ = batches(1)[0]
    total, _ = distiller.train_on_batch((x,), {"scale": 3.0})
    torch.testing.assert_close(
        total, kd(distiller.model_S(x, scale=3.0)["logits"], distiller.model_T(x, scale=3.0)["logits"]).mean())
    loss = kd(student()(x, scale=3.0)["logits"], distiller.model_T(x, scale=3.0)["logits"]).mean()
    result = []
    distiller.train(sgd(distiller.model_S), [(x,)], num_epochs=1, scale=3.0,
                    callback=lambda model, step: result.append(model))
    again, _ = basic(tmp_path).train_on_batch((x,), {"scale": 3.0})
    torch.testing.assert_close(again, loss)
    assert not torch.equal(distiller.model_S.out.weight, student().out.weight)


# What adaptors return


def heads(batch: Mapping[str, Tensor], out: Mapping[str, Any], *, masks: Any = None) -> dict[str, Any]:
    """Two heads of tokens, as start and end of a span."""
    return {"logits": [out["tokens"], out["tokens"].square() - 1]} | ({} if masks is None else {"logits_mask": masks})


def of_heads(distiller: Any, batch: Mapping[str, Tensor], masks: list[Tensor]) -> Tensor:
    s, t = distiller.model_S(batch["x"])["tokens"], distiller.model_T(batch["x"])["tokens"]
    pairs = [(s, t), (s.square() - 1, t.square() - 1)]
    return sum((kd(s, t)[m.bool()].mean() for (s, t), m in zip(pairs, masks, strict=True)), torch.zeros(()))


@pytest.mark.parametrize("form", ["one", "list of one", "several", "none"])
def test_several_heads_are_added_under_one_mask_or_one_each(tmp_path: Path, form: str) -> None:
    batch = token_batch()
    given = {"one": batch["mask"], "list of one": [batch["mask"]], "several": [batch["mask"], batch["other"]],
             "none": None}[form]

    def masked(batch: Any, out: Any) -> dict[str, Any]:
        return heads(batch, out, masks=given)

    distiller = basic(tmp_path, masked, masked, model=Reading)
    masks = {"several": [batch["mask"], batch["other"]], "none": [torch.ones_like(batch["mask"])] * 2}.get(
        form, [batch["mask"]] * 2)
    torch.testing.assert_close(distiller.train_on_batch(batch)[0], of_heads(distiller, batch, masks))


def test_the_students_mask_decides(tmp_path: Path) -> None:
    batch = token_batch()

    def of_teacher(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["tokens"], "logits_mask": batch["other"]}

    def of_student(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["tokens"], "logits_mask": batch["mask"]}

    distiller = basic(tmp_path, of_teacher, of_student, model=Reading)
    s, t = (model(batch["x"])["tokens"] for model in (distiller.model_S, distiller.model_T))
    torch.testing.assert_close(distiller.train_on_batch(batch)[0], kd(s, t)[batch["mask"].bool()].mean())


def test_a_mask_of_tokens_says_nothing_of_logits_of_rows(tmp_path: Path) -> None:
    batch = token_batch()

    def with_mask(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"], "logits_mask": batch["mask"]}

    distiller = basic(tmp_path, with_mask, with_mask, model=Reading)
    torch.testing.assert_close(distiller.train_on_batch(batch)[0], basic(tmp_path).train_on_batch((batch["x"],))[0])


def test_different_numbers_of_heads_are_refused(tmp_path: Path) -> None:
    distiller = basic(tmp_path, heads, lambda b, o: {"logits": o["tokens"]}, model=Reading)
    with pytest.raises(OutputError, match="the student gives 1 logits heads, the teacher 2"):
        distiller.train_on_batch(token_batch())


@pytest.mark.parametrize("mask", [torch.ones(6, 4), torch.ones(5, 5)], ids=["too short", "too few rows"])
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, mask: Tensor) -> None:
    def with_mask(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["tokens"], "logits_mask": mask}

    with pytest.raises(OutputError, match="mask"):
        basic(tmp_path, with_mask, with_mask, model=Reading).train_on_batch(token_batch())


def test_losses_are_averaged_and_added(tmp_path: Path) -> None:
    def of_student(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"], "losses": [out["loss"], out["hidden"][0].square().mean(dim=(1, 2))]}

    distiller = basic(tmp_path, adaptor, of_student, kd_loss_weight=0, hard_label_weight=2)
    x, labels = batches()[0]
    s = distiller.model_S(x, labels)
    total, _ = distiller.train_on_batch((x, labels))
    torch.testing.assert_close(total, 2 * (s["loss"] + s["hidden"][0].square().mean()))


@pytest.mark.filterwarnings("ignore:gradient accumulation with masks that only the model's outputs tell")
def test_labels_tell_what_a_users_mean_is_over(tmp_path: Path) -> None:
    """A step over micro-batches with 3, 0 and 1 labels is a step over all four."""
    batch = token_batch(rows=3)
    batch["labels"] = torch.full((3, 5), -100)
    batch["labels"][0, :3], batch["labels"][2, 0] = 1, 2

    def with_labels(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["tokens"], "losses": out["loss"], "labels": batch["labels"]}

    trainer = BasicTrainer(tconf(tmp_path, gradient_accumulation_steps=3), Reading(6, 2, 2), with_labels)
    before = Reading(6, 2, 2)
    (gradient,) = torch.autograd.grad(before(batch["x"], batch["labels"])["loss"], [before.tokens.weight])
    rows = [{name: value[i:i + 1] for name, value in batch.items()} for i in range(3)]
    trainer.train(sgd(trainer.model_S), rows, num_epochs=1)
    torch.testing.assert_close(trainer.model_S.tokens.weight, before.tokens.weight - 0.1 * gradient)


def test_the_inputs_mask_of_the_student_covers_both_sides_of_a_match(tmp_path: Path) -> None:
    batch = token_batch()

    def with_mask(name: str) -> Any:
        return lambda batch, out: {"hidden": out["hidden"], "inputs_mask": batch[name]}

    distiller = general(tmp_path, with_mask("other"), with_mask("mask"), model=Reading,
                        intermediate_matches=[MATCH | {"weight": 1}])
    with pytest.warns(UserWarning, match=r"'unweighted_kd_loss' has a weight but is left out: .*logits"):
        total, _ = distiller.train_on_batch(batch)
    s, t = distiller.model_S(batch["x"]), distiller.model_T(batch["x"])
    projection = distiller.plan.objective.losses["unweighted_hidden_hidden_mse_1_2"].projection
    kept = batch["mask"].bool()
    torch.testing.assert_close(total, F.mse_loss(projection(s["hidden"][1])[kept], t["hidden"][2][kept]))


def test_lists_of_layers_and_negative_numbers_mean_the_same_layers(tmp_path: Path) -> None:
    totals = []
    for layers_T, layers_S in (([2, 2], [1, 1]), ([-1, -1], [-1, -1])):
        match = {"layer_T": layers_T, "layer_S": layers_S, "feature": "hidden", "loss": "nst"}
        totals.append(general(tmp_path, intermediate_matches=[match]).train_on_batch(batches()[0])[1])
    (first,), (second,) = ([value for name, value in parts.items() if "nst" in name] for parts in totals)
    assert set(totals[0]) >= {"unweighted_hidden_nst_1-1_2-2"}
    torch.testing.assert_close(first, second)


def test_a_term_of_weight_zero_is_not_computed_and_cannot_poison_the_loss(tmp_path: Path) -> None:
    def poisoned(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"], "hidden": [h * float("nan") for h in out["hidden"]], "losses": out["loss"]}

    distiller = general(tmp_path, poisoned, poisoned, intermediate_matches=[MATCH | {"weight": 0}])
    total, parts = distiller.train_on_batch(batches()[0])
    assert set(parts) == {"unweighted_kd_loss"} and bool(total.isfinite())


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    trainer = BasicTrainer(tconf(tmp_path), student(), lambda b, o: {"logits": o["logits"], "losses": []})
    with pytest.raises(OutputError, match="losses"):
        trainer.train_on_batch(batches()[0])
    with pytest.raises(OutputError, match="nothing"), pytest.warns(UserWarning, match="left out"):
        general(tmp_path, lambda b, o: {}, logits_only).train_on_batch(batches()[0])


def test_hard_labels_without_the_adaptors_losses_warn(tmp_path: Path) -> None:
    distiller = basic(tmp_path, hard_label_weight=1.0)
    with pytest.warns(UserWarning, match="'unweighted_hard_label_loss' has a weight but is left out"):
        distiller.train_on_batch((batches()[0][0],))
