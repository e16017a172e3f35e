"""What cannot work is refused, and what has no effect is said: before anything runs where configurations tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse import (
    BasicDistiller,
    BasicTrainer,
    DistillationConfig,
    Distillers,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
    TrainingConfig,
)
from stillhouse.config import IntermediateMatch
from stillhouse.errors import ConfigError, OutputError, PlanError

from .toys import MATCH, adaptor, basic, batches, general, sgd, student, tconf, teacher

FIVE = [BasicTrainer, BasicDistiller, GeneralDistiller, MultiTeacherDistiller, MultiTaskDistiller]
MAPS = {"layer_T": 1, "layer_S": 1, "feature": "attention", "loss": "attention_mse"}


# Classes


@pytest.mark.parametrize("distiller", FIVE)
@pytest.mark.parametrize("module", ["__main__", "mine", "my_package.distillers.mine", "stillhouse_extras.distillers"])
def test_subclassing_says_what_to_write_instead(distiller: type, module: str) -> None:
    with pytest.raises(TypeError, match=rf"{distiller.__name__} is final.*write a loss .* teacher source .* a sink"):
        type("Mine", (distiller,), {"__module__": module})


def test_the_five_are_found_by_the_papers_names() -> None:
    assert Distillers == {"Train": BasicTrainer, "Basic": BasicDistiller, "General": GeneralDistiller,
                          "MultiTeacher": MultiTeacherDistiller, "MultiTask": MultiTaskDistiller}


# Matches


@pytest.mark.parametrize(("change", "message"), [
    ({"loss": "cos"}, "cos compares hidden, and the feature is 'attention'; losses for it: .*attention_ce"),
    ({"feature": "hidden"}, "attention_mse compares attention, and the feature is 'hidden'; losses for it: hidden_mse"),
    ({"proj": ["linear", 6, 8]}, "need no projection; drop proj"),
    ({"layer_T": [1, 2], "layer_S": [1, 2]}, "attention_mse is given one layer, such as 8"),
    ({"module_T": "a", "module_S": "b"}, "got layer_T, layer_S, feature, module_T, module_S"),
    ({"module_T": "a", "layer_T": None}, "give layer_T, layer_S and feature, or module_T and module_S"),
    ({"layer_T": None, "layer_S": None, "feature": None}, "got none of them"),
    ({"layer_S": None}, "got layer_T, feature"),
    ({"feature": None}, "got layer_T, layer_S"),
    ({"layer_T": "1"}, "layer_T"),
], ids=lambda value: str(value)[:40])
def test_a_match_that_means_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    IntermediateMatch(**MAPS)
    with pytest.raises(ConfigError, match=message):
        DistillationConfig(intermediate_matches=[MAPS | change])


@pytest.mark.parametrize("loss", ["nst", "mmd", "fsp", "gram"])
@pytest.mark.parametrize(("layer_T", "layer_S"), [(1, 1), ([1], [1]), ([1, 2, 3], [1, 2, 3]), ([1, 2], 1)], ids=str)
def test_losses_of_two_layers_take_two(loss: str, layer_T: Any, layer_S: Any) -> None:
    match = {"layer_T": layer_T, "layer_S": layer_S, "feature": "hidden", "loss": loss}
    with pytest.raises(ConfigError, match=rf"{loss} is given a list of 2 layers, such as \[8, 8\]"):
        DistillationConfig(intermediate_matches=[match])
    DistillationConfig(intermediate_matches=[match | {"layer_T": [1, 2], "layer_S": [1, 2]}])


@pytest.mark.parametrize("loss", ["nst", "fsp", "emd", "attention_mse"])
def test_losses_of_two_layers_do_not_take_modules(loss: str) -> None:
    with pytest.raises(ConfigError, match=f"{loss} is no loss between two modules; hidden_mse, cos, pkd"):
        IntermediateMatch(module_T="a", module_S="b", loss=loss)


def test_an_unknown_set_of_matches_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"L3_hiden_mse.*did you mean 'L3_hidden_mse'"):
        DistillationConfig(intermediate_matches=["L3_hiden_mse"])
    with pytest.raises(ConfigError):
        DistillationConfig(intermediate_matches=3)


def test_a_set_of_matches_is_the_matches_it_stands_for() -> None:
    config = DistillationConfig(intermediate_matches=["L3_hidden_mse", MATCH])
    pairs = [(match.layer_T, match.layer_S) for match in config.intermediate_matches]
    assert pairs == [(0, 0), (4, 1), (8, 2), (12, 3), (2, 1)]


def test_a_layer_that_does_not_exist_names_what_there_is(tmp_path: Path) -> None:
    for change, message in (({"layer_T": 12}, "'hidden' list has 3 entries, 0 to 2"),
                            ({"layer_S": -3}, "'hidden' list has 2 entries, 0 to 1")):
        distiller = general(tmp_path, intermediate_matches=[MATCH | change])
        with pytest.raises(OutputError, match=message):
            distiller.train_on_batch(batches()[0])


def test_widths_that_differ_name_the_projection(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=[MATCH | {"proj": None}])
    with pytest.raises(OutputError, match=r"proj: \[linear, 6, 8\]"):
        distiller.train_on_batch(batches()[0])


def test_nothing_is_trained_or_written_before_an_error_of_the_first_batch(tmp_path: Path) -> None:
    distiller = general(tmp_path, intermediate_matches=[MATCH | {"layer_T": 12}])
    before = distiller.model_S.out.weight.clone()
    with pytest.raises(OutputError):
        distiller.train(sgd(distiller.model_S), batches(2), num_epochs=1)
    assert torch.equal(before, distiller.model_S.out.weight) and not (tmp_path / "out").exists()


def test_classes_that_differ_are_refused_at_the_first_batch(tmp_path: Path) -> None:
    distiller = basic(tmp_path, lambda batch, out: {"logits": out["logits"][:, :2]})
    with pytest.raises(OutputError, match="the same classes in the same order"):
        distiller.train_on_batch(batches()[0])


# Settings


@pytest.mark.parametrize("length", [{}, {"num_epochs": 0}, {"num_steps": 0}, {"num_steps": -1}, {"num_epochs": -2.0}])
def test_a_training_without_a_length_is_refused(tmp_path: Path, length: dict[str, Any]) -> None:
    distiller = general(tmp_path)
    with pytest.raises(PlanError, match=r"give num_epochs or num_steps|must be above 0"):
        distiller.train(sgd(distiller.model_S), batches(1), **length)


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    with pytest.raises(PlanError, match="holds no parameter of the student"):
        distiller.train(sgd(student(seed=9)), batches(1), num_epochs=1)


def test_old_settings_without_effect_warn_with_the_remedy() -> None:
    with pytest.warns(UserWarning, match="data_parallel has no effect; start one process a device with torchrun"):
        TrainingConfig(data_parallel=True)
    with pytest.warns(UserWarning, match="fp16_opt_level has no effect; set precision='bf16' or 'fp16'"):
        TrainingConfig(fp16_opt_level="O2")


@pytest.mark.parametrize(("settings", "message"), [
    ({"fp16": True, "precision": "bf16"}, "fp16=True contradicts precision='bf16'"),
    ({"output_dir": ""}, "output_dir is empty"),
    ({"ckpt_frequency": 0}, "ckpt_frequency=0"),
    ({"gradient_accumulation_steps": 1.5}, "gradient_accumulation_steps=1.5"),
    ({"ckpt_step": 3}, "did you mean 'ckpt_steps'"),
])
def test_settings_of_training_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**settings)


def test_distillers_that_do_not_cache_say_so(tmp_path: Path) -> None:
    config = DistillationConfig(is_caching_logits=True)
    with pytest.warns(UserWarning, match="GeneralDistiller does not cache logits.*use BasicDistiller"):
        GeneralDistiller(tconf(tmp_path), config, teacher(), student(), adaptor, adaptor)
    one = {"a": adaptor}
    with pytest.warns(UserWarning, match="MultiTaskDistiller does not cache") as caught:
        MultiTaskDistiller(tconf(tmp_path), config, {"a": teacher()}, student(), one, one)
    assert len(caught) == 1 and config.is_caching_logits, "the configuration stays as it is"


# Nothing to learn


def test_weights_that_are_all_zero_are_refused_before_anything_runs() -> None:
    with pytest.raises(PlanError, match="all weights are 0, so there is nothing to learn from; raise one"):
        basic(None, kd_loss_weight=0)
    config = {"a": DistillationConfig(), "b": DistillationConfig(kd_loss_weight=0)}
    both = {"a": adaptor, "b": adaptor}
    with pytest.raises(PlanError, match="all weights of task 'b' are 0"):
        MultiTaskDistiller(tconf(None), config, {"a": teacher(), "b": teacher()}, student(), both, both)


def test_options_that_the_optimizer_does_not_have_are_refused() -> None:
    match = MATCH | {"proj": ["linear", 6, 8, {"lrr": 1}]}
    distiller = general(None, intermediate_matches=[match])
    with pytest.raises(PlanError, match="SGD has no option lrr; known: lr, momentum"):
        distiller.train(sgd(distiller.model_S), batches(1), num_epochs=1)


def test_teacher_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(PlanError, match="give 2 numbers"):
        MultiTeacherDistiller(tconf(None), DistillationConfig(), [teacher(), teacher()], student(), adaptor, adaptor,
                              teacher_weights=[float("nan"), 1])
