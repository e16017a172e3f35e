"""Promises of the objective that a recipe asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig

from stillhouse.errors import ConfigError, PlanError
from stillhouse.objective import Objective
from stillhouse.projections import Projection
from stillhouse.recipe.distillation_schema import DistillationSection
from stillhouse.recipe.objectives import distillation_objective
from stillhouse.tasks import TextClassification, TextClassificationData
from stillhouse.types import ATTENTION_SCORES, LABELS, LOGITS, Key, Progress, module_key

TASK = TextClassification(TextClassificationData(train="x"))


def config(depth: int, width: int) -> BertConfig:
    return BertConfig(num_hidden_layers=depth, hidden_size=width, num_attention_heads=2)


def objective(student_width: int = 8, **values: Any) -> Objective:
    return distillation_objective(DistillationSection.model_validate(values), TASK, config(4, 8),
                                  config(2, student_width), max_length=128)


def test_terms_are_named_by_teacher_and_student_layer() -> None:
    found = objective(matches={"layers": "uniform", "losses": ["hidden_mse", "nst"]}, hard_label_weight=0.5)
    assert list(found.terms) == [
        "kd", "hard", "hidden_mse 0-0", "hidden_mse 2-1", "hidden_mse 4-2", "nst 0-0", "nst 2-1", "nst 4-2"]
    assert found.needs().teacher == {LOGITS, *(Key("hidden", layer) for layer in (0, 2, 4))}
    assert found.needs().student >= {Key("hidden", layer) for layer in (0, 1, 2)}


@pytest.mark.parametrize("loss", ["hidden_mse", "cos", "pkd", "nst"])
@pytest.mark.parametrize("width", [8, 6])
def test_only_what_compares_different_widths_gets_a_projection(loss: str, width: int) -> None:
    found = objective(width, matches={"layers": [[4, 2]], "losses": [loss]})
    projections = [module for module in found.modules() if isinstance(module, Projection)]
    sizes = [(projection.dim_student, projection.dim_teacher) for projection in projections]
    assert sizes == ([] if loss == "nst" or width == 8 else [(6, 8)])
    found.check(lambda key: width if key.kind == "hidden" else 3, lambda key: 8 if key.kind == "hidden" else 3)


@pytest.mark.parametrize("loss", ["ce", "mse", "forward_kl"])
def test_the_divergence_is_watched_beside_losses_that_are_none(loss: str) -> None:
    found = objective(loss=loss, temperature=2)
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    mask = {"logits": torch.ones(5, 1)}
    progress = Progress(0, 10)
    sums = found({LOGITS: student}, {LOGITS: teacher}, mask, progress)
    total, means = found.combine(sums, found.counts(mask), progress)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    divergence = 4 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(means["kd" if loss == "forward_kl" else "kd_divergence"], divergence)
    assert total is not None
    torch.testing.assert_close(total, means["kd"])  # what is watched is not added


def test_weights_may_differ_by_loss_and_zero_leaves_out() -> None:
    found = objective(loss_weight=0, hard_label_weight=2,
                      matches={"layers": [[4, 2]], "losses": ["nst", "cos", "pkd"], "weight": {"nst": 3, "cos": 0}})
    weights = {name: term.weight(Progress(0, 1)) for name, term in found.terms.items()}
    assert weights == {"hard": 2, "nst 4-2": 3, "pkd 4-2": 1}


def test_a_match_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hidden_mse 0-0, hidden_mse 4-2"):
        objective(matches=[{"layers": "uniform", "losses": ["hidden_mse"]},
                           {"layers": [[0, 0], [-1, -1]], "losses": ["hidden_mse"]}])


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(PlanError, match="the teacher has no layer 5"):
        objective(matches={"layers": [[5, 1]], "losses": ["nst"]})


def test_attention_is_matched_by_layer_without_the_embeddings() -> None:
    found = objective(matches={"losses": ["attention_mse", "hidden_mse"]})
    assert [name for name in found.terms if name.startswith("attention")] == ["attention_mse 2-1", "attention_mse 4-2"]
    maps = {key.index for key in found.needs().teacher if key.kind == ATTENTION_SCORES}
    assert maps == {1, 3}  # the map of layer n is number n - 1
    with pytest.raises(ConfigError, match="layer 0 is the embeddings"):
        objective(matches={"layers": [[0, 0]], "losses": ["attention_ce"]})


def test_optimal_transport_takes_every_layer_of_both_sides() -> None:
    found = objective(6, matches={"losses": ["emd"]})
    assert list(found.terms) == ["kd", "emd all"]
    assert {key.index for key in found.needs().teacher if key.kind == "hidden"} == {0, 1, 2, 3, 4}
    assert sum(isinstance(module, Projection) for module in found.modules()) == 3  # one for each layer of the student


def test_modules_are_matched_by_path() -> None:
    found = objective(6, matches={"module_T": "bert.pooler", "module_S": "encoder.out", "loss": "cos", "weight": 2})
    term = found.terms["cos bert.pooler-encoder.out"]
    assert term.needs().teacher == {module_key("bert.pooler")} and term.weight(Progress(0, 1)) == 2
    assert [(p.dim_student, p.dim_teacher) for p in found.modules() if isinstance(p, Projection)] == [(6, 8)]


def test_a_named_set_stands_for_its_loss_and_pairs() -> None:
    section = DistillationSection.model_validate({"matches": ["L3_hidden_mse", "L3_hidden_smmd"]})
    found = distillation_objective(section, TASK, config(12, 8), config(3, 6), 128)
    names = [f"{loss} {pair}" for loss in ("hidden_mse", "mmd") for pair in ("0-0", "4-1", "8-2", "12-3")]
    assert list(found.terms) == ["kd", *names]


def test_schedules_multiply_the_weight() -> None:
    found = objective(loss_weight=4, loss_schedule="linear_decay", hard_label_weight=2,
                      hard_label_schedule="linear_growth",
                      matches={"layers": [[4, 2]], "losses": ["nst"], "weight": 3, "schedule": "linear_decay"})
    weights = {name: [term.weight(Progress(step, 4)) for step in (0, 1, 4)] for name, term in found.terms.items()}
    assert weights == {"kd": [4, 3, 0], "hard": [0, 0.5, 2], "nst 4-2": [3, 2.25, 0]}


def test_a_projection_may_be_chosen() -> None:
    found = objective(6, matches={"layers": [[4, 2]], "losses": ["hidden_mse"], "projection": "tanh"})
    (projection,) = [module for module in found.modules() if isinstance(module, Projection)]
    assert projection.activation is torch.tanh


def test_strategy_and_shift_reach_the_loss_and_the_plain_divergence_is_watched() -> None:
    found = objective(temperature=2, temperature_strategy=["cwsm", 1], probability_shift=True)
    assert found.needs().student == {LOGITS, LABELS} and found.terms["kd_divergence"].monitored
    assert found.terms["kd"].loss.scope == "batch"


def test_a_number_has_no_temperature_of_its_own() -> None:
    section = DistillationSection.model_validate({"temperature_strategy": ["cwsm", 1]})
    distillation_objective(section, TASK, config(4, 8), config(2, 8), 128)
    number = TextClassification(TextClassificationData(train="x", labels="regression"))
    with pytest.raises(ConfigError, match="here the label is a number, which has none; leave temperature_strategy out"):
        distillation_objective(section, number, config(4, 8), config(2, 8), 128)


def test_layers_that_nst_alone_reads_are_asked_for_as_similarities_where_these_are_smaller() -> None:
    def teacher_keys(max_length: int) -> set[Key]:
        matches = [{"layers": [[2, 1]], "losses": ["hidden_mse", "nst"]}, {"layers": [[4, 2]], "losses": ["mmd"]}]
        section = DistillationSection.model_validate({"matches": matches})
        return set(distillation_objective(section, TASK, config(4, 8), config(2, 8), max_length).needs().teacher)

    assert teacher_keys(8) == {LOGITS, Key("hidden", 2), Key("hidden", (4, 4), "gram")}
    assert teacher_keys(9) == {LOGITS, Key("hidden", 2), Key("hidden", 4)}
