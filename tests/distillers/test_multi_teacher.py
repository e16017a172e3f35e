"""Several teachers: how their answers are averaged, and whose layers are matched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from stillhouse import DistillationConfig, MultiTeacherDistiller
from stillhouse.adaptors import HuggingFaceAdaptor
from stillhouse.errors import OutputError, PlanError

from .toys import (
    MATCH,
    Reading,
    Toy,
    adaptor,
    basic,
    batches,
    kd,
    logits_only,
    sgd,
    student,
    tconf,
    teacher,
    token_batch,
    weights,
)


def several(folder: Path, config: dict[str, Any] | None = None, adaptors: Any = adaptor, number: int = 3,
            model: type[Toy] = Toy, **settings: Any) -> MultiTeacherDistiller:
    teachers = [model(8, 3, seed) for seed in range(10, 10 + number)]
    of_student = adaptors[0] if isinstance(adaptors, list) else adaptors
    return MultiTeacherDistiller(tconf(folder), DistillationConfig(**(config or {})), teachers, model(6, 2, 2),
                                 adaptors, of_student, **settings)


def logits(distiller: MultiTeacherDistiller, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    return distiller.model_S(x)["logits"], [model(x)["logits"] for model in distiller.model_T]


def test_without_further_settings_the_logits_have_equal_weights(tmp_path: Path) -> None:
    distiller = several(tmp_path)
    x, _ = batches()[0]
    s, (a, b, c) = logits(distiller, x)
    torch.testing.assert_close(distiller.train_on_batch((x,))[0], kd(s, (a + b + c) / 3).mean())


def test_one_teacher_is_a_basic_distiller(tmp_path: Path) -> None:
    distiller = MultiTeacherDistiller(tconf(tmp_path), DistillationConfig(), [teacher()], student(), adaptor, adaptor)
    plain = basic(tmp_path)
    for one in (distiller, plain):
        one.train(sgd(one.model_S), batches(3), num_epochs=2)
    torch.testing.assert_close(weights(distiller.model_S), weights(plain.model_S))


@pytest.mark.parametrize("given", [[1, 2, 5], [0.125, 0.25, 0.625], [0, 0, 3]], ids=str)
def test_weights_say_how_much_each_teacher_counts(tmp_path: Path, given: list[float]) -> None:
    distiller = several(tmp_path, teacher_weights=given)
    x, _ = batches()[0]
    s, answers = logits(distiller, x)
    mean = sum(w * t for w, t in zip(given, answers, strict=True)) / sum(given)
    torch.testing.assert_close(distiller.train_on_batch((x,))[0], kd(s, mean).mean())


@pytest.mark.parametrize("given", [None, [1, 2, 5], [0, 1, 1]], ids=str)
def test_averaged_probabilities_stand_in_with_their_logarithm(tmp_path: Path, given: Any) -> None:
    distiller = several(tmp_path, {"temperature": 2}, teacher_weights=given, average="probabilities")
    x, _ = batches()[0]
    s, answers = logits(distiller, x)
    shares = [w / sum(given or [1, 1, 1]) for w in given or [1, 1, 1]]
    mean = sum(w * t.exp() / t.exp().sum(-1, keepdim=True) for w, t in zip(shares, answers, strict=True))
    assert isinstance(mean, Tensor)
    found, _ = distiller.train_on_batch((x,))
    torch.testing.assert_close(found, kd(s, mean.log(), 2).mean())
    by_logits = several(tmp_path, {"temperature": 2}, teacher_weights=given)
    assert not torch.allclose(found, by_logits.train_on_batch((x,))[0])


def test_each_teacher_may_have_its_own_adaptor_and_several_heads(tmp_path: Path) -> None:
    def heads(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": [out["tokens"], out["tokens"] * 2], "logits_mask": batch["mask"]}

    def turned(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": [-out["tokens"], out["tokens"].exp()], "logits_mask": batch["other"]}

    batch = token_batch()
    distiller = several(tmp_path, adaptors=[heads, turned], number=2, model=Reading)
    s, a, b = (model(batch["x"])["tokens"] for model in (distiller.model_S, *distiller.model_T))
    kept = batch["mask"].bool()
    wanted = kd(s, (a - b) / 2)[kept].mean() + kd(s * 2, (a * 2 + b.exp()) / 2)[kept].mean()
    torch.testing.assert_close(distiller.train_on_batch(batch)[0], wanted)


@pytest.mark.parametrize("chosen", [0, 2])
def test_layers_are_matched_with_the_chosen_teacher(tmp_path: Path, chosen: int) -> None:
    distiller = several(tmp_path, {"intermediate_matches": [MATCH]}, match_teacher=chosen)
    x, _ = batches()[0]
    s, answers = logits(distiller, x)
    layer = distiller.model_T[chosen](x)["hidden"][2]
    projection = distiller.plan.objective.losses["unweighted_hidden_hidden_mse_1_2"].projection
    match = F.mse_loss(projection(distiller.model_S(x)["hidden"][1]), layer)
    total, parts = distiller.train_on_batch((x,))
    torch.testing.assert_close(parts["unweighted_hidden_hidden_mse_1_2"], match.detach())
    torch.testing.assert_close(total, kd(s, sum(answers[1:], answers[0]) / 3).mean() + 2 * match)


def test_the_other_teachers_change_nothing_of_a_match(tmp_path: Path) -> None:
    """They may even give no layers at all."""
    parts = []
    for seed, others in ((20, adaptor), (30, logits_only)):
        torch.manual_seed(0)
        config = DistillationConfig(intermediate_matches=[MATCH])
        distiller = MultiTeacherDistiller(tconf(tmp_path), config, [Toy(4, 1, seed), teacher()], student(),
                                          [others, adaptor], adaptor, match_teacher=1)
        parts.append(distiller.train_on_batch(batches()[0])[1])
    name = "unweighted_hidden_hidden_mse_1_2"
    assert torch.equal(parts[0][name], parts[1][name])
    assert not torch.equal(parts[0]["unweighted_kd_loss"], parts[1]["unweighted_kd_loss"])


@pytest.mark.parametrize("caching", [False, True])
def test_matches_with_a_chosen_teacher_train_their_projection(tmp_path: Path, caching: bool) -> None:
    distiller = several(tmp_path, {"intermediate_matches": [MATCH], "is_caching_logits": caching}, match_teacher=1)
    before = weights(distiller.plan.objective)
    distiller.train(sgd(distiller.model_S), batches(2), num_epochs=3)
    assert not torch.equal(before, weights(distiller.plan.objective))
    assert [len(model.calls) for model in distiller.model_T] == ([2] * 3 if caching else [6] * 3)


def test_every_teacher_evaluates_and_comes_back_as_it_was(tmp_path: Path) -> None:
    distiller = several(tmp_path)
    distiller.model_T[1].eval()
    with distiller:
        distiller.train(sgd(distiller.model_S), batches(2), num_epochs=1)
    assert [model.calls for model in distiller.model_T] == [[False, False]] * 3
    assert [model.training for model in distiller.model_T] == [True, False, True]


# What cannot work


def test_matches_without_a_chosen_teacher_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there are 3; say which one with match_teacher=0 to 2"):
        several(tmp_path, {"intermediate_matches": [MATCH]})


@pytest.mark.parametrize("chosen", [3, -1])
def test_a_teacher_that_does_not_exist_cannot_be_chosen(tmp_path: Path, chosen: int) -> None:
    with pytest.raises(PlanError, match=f"of teacher {chosen}, and there are 3: 0 to 2"):
        several(tmp_path, {"intermediate_matches": [MATCH]}, match_teacher=chosen)


@pytest.mark.parametrize("given", [[1, 2], [1, 2, 3, 4], [1, -1, 1], [0, 0, 0]], ids=str)
def test_weights_that_cannot_be_a_mean_are_refused(tmp_path: Path, given: list[float]) -> None:
    with pytest.raises(PlanError, match="give 3 numbers, none negative, not all 0"):
        several(tmp_path, teacher_weights=given)


def test_too_few_adaptors_an_unknown_average_and_no_teacher_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="3 teachers, but 2 adaptors"):
        several(tmp_path, adaptors=[adaptor, adaptor])
    with pytest.raises(PlanError, match="average='mean': an ensemble averages 'logits' or 'probabilities'"):
        several(tmp_path, average="mean")
    with pytest.raises(PlanError, match="at least one teacher"):
        several(tmp_path, number=0)


def bert(labels: int, seed: int, width: int = 8) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(
        vocab_size=20, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, num_labels=labels))


def test_what_configurations_tell_is_refused_before_anything_runs(tmp_path: Path) -> None:
    rows = HuggingFaceAdaptor("rows")

    def made(teachers: list[Any], model: Any, matches: Any = (), chosen: int | None = None) -> MultiTeacherDistiller:
        config = DistillationConfig(intermediate_matches=list(matches))
        return MultiTeacherDistiller(tconf(tmp_path), config, teachers, model, rows, rows, match_teacher=chosen)

    with pytest.raises(PlanError, match=r"different numbers of labels: \[3, 4\]"):
        made([bert(3, 0), bert(4, 1)], bert(3, 2))
    with pytest.raises(PlanError, match="the student predicts 5 labels, the teacher 3"):
        made([bert(3, 0), bert(3, 1)], bert(5, 2))
    match = {"layer_T": 1, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse"}
    with pytest.raises(PlanError, match=r"proj: \[linear, 8, 16\]"):
        made([bert(3, 0), bert(3, 1, width=16)], bert(3, 2), [match], chosen=1)
    with pytest.raises(PlanError, match="hidden state 3 does not exist"):
        made([bert(3, 0), bert(3, 1)], bert(3, 2), [match | {"layer_T": 3}], chosen=0)
    made([bert(3, 0), bert(3, 1, width=16)], bert(3, 2), [match], chosen=0)


def test_what_only_outputs_tell_is_refused_at_the_first_batch(tmp_path: Path) -> None:
    def narrow(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"][:, :2]}

    with pytest.raises(OutputError, match=r"logits\[0\] of shapes \(6, 3\), \(6, 2\); they must predict"):
        several(tmp_path, adaptors=[adaptor, narrow], number=2).train_on_batch(batches()[0])


def test_ready_made_outputs_are_one_for_each_teacher(tmp_path: Path) -> None:
    distiller = several(tmp_path, adaptors=logits_only, number=2)
    x, _ = batches()[0]
    s, answers = logits(distiller, x)
    distiller.model_T[0].calls.clear()
    ready = [{"logits": t * 3} for t in answers]
    batch = {"teacher": {"x": x}, "student": {"x": x}, "teacher_cache": ready}
    torch.testing.assert_close(distiller.train_on_batch(batch)[0], kd(s, 1.5 * (answers[0] + answers[1])).mean())
    assert distiller.model_T[0].calls == []
    for wrong in (ready[0], ready[:1]):
        with pytest.raises(OutputError, match="takes a list of as many ready-made outputs"):
            distiller.train_on_batch(batch | {"teacher_cache": wrong})
