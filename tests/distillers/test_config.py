"""The configurations: files and back, mistakes, names from the maps, and that training never changes them."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import stillhouse
from stillhouse import DistillationConfig, GeneralDistiller, TrainingConfig
from stillhouse.errors import ConfigError

from .toys import MATCH, adaptor, basic, batches, general, kd, sgd, student, tconf, teacher, weights

EVERYTHING: dict[str, Any] = {
    "temperature": 8, "temperature_scheduler": ["flsw", 1, 2], "kd_loss_weight_scheduler": "linear_decay",
    "hard_label_weight_scheduler": "linear_growth", "probability_shift": True,
    "intermediate_matches": [
        MATCH, {"module_T": "pooler", "module_S": "pooler", "loss": "cos", "proj": ["tanh", 6, 8]},
    ],
}


@pytest.mark.parametrize("settings", [
    EVERYTHING, {"temperature_scheduler": ["cwsm", {"beta": 1}]}, {"temperature_scheduler": "constant"},
    {"intermediate_matches": "L3_hidden_mse"}, {},
], ids=lambda settings: str(next(iter(settings.items()), "defaults")))
def test_it_goes_to_files_and_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = DistillationConfig(**settings)
    config.to_json_file(tmp_path / "c.json")
    config.to_yaml_file(tmp_path / "c.yaml")
    for again in (DistillationConfig.from_json_file(tmp_path / "c.json"), copy.deepcopy(config),
                  DistillationConfig.from_yaml_file(tmp_path / "c.yaml"),
                  DistillationConfig.from_dict(config.to_dict()), pickle.loads(pickle.dumps(config)),
                  DistillationConfig(**settings)):
        assert again == config and again.to_dict() == config.to_dict()
    assert json.loads((tmp_path / "c.json").read_text()) == config.to_dict()
    assert config.to_dict()["temperature_scheduler"] == settings.get("temperature_scheduler")


def test_paths_go_to_files_and_back_too(tmp_path: Path) -> None:
    config = TrainingConfig(output_dir=tmp_path / "out", log_dir=tmp_path)
    config.to_json_file(tmp_path / "c.json")
    config.to_yaml_file(tmp_path / "c.yaml")
    assert TrainingConfig.from_json_file(tmp_path / "c.json") == config
    assert TrainingConfig.from_dict(config.to_dict()) == config
    assert TrainingConfig.from_yaml_file(tmp_path / "c.yaml") == config


def test_it_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        DistillationConfig().temperature = 3  # type: ignore[misc]


@pytest.mark.parametrize(("settings", "message"), [
    ({"temperatur": 3}, "did you mean 'temperature'"),
    ({"temperature": 0}, "temperature=0"),
    ({"temperature": float("inf")}, "temperature=inf"),
    ({"temperature": "8"}, "temperature='8'"),
    ({"kd_loss_type": "klx"}, "unknown kd_loss_type 'klx'.*ce, .*mse"),
    ({"kd_loss_weight_scheduler": "cosine"}, "unknown weight schedule 'cosine'.*linear_decay, linear_growth"),
    ({"temperature_scheduler": "flsv"}, "unknown temperature strategy"),
    ({"temperature_scheduler": "flsw"}, r"'flsw' missing 2 required .* \[flsw, 1, 2\]"),
    ({"temperature_scheduler": ["cwsm", 1, 2, 3]}, r"\[cwsm, 1\]"),
    ({"temperature_scheduler": 3}, r"3: write none, constant, \[flsw, BETA, GAMMA\]"),
    ({"intermediate_matches": [MATCH | {"loss": "hiden_mse"}]}, "did you mean 'hidden_mse'"),
    ({"intermediate_matches": [MATCH | {"feature": "hid"}]}, "unknown feature 'hid'"),
    ({"intermediate_matches": [MATCH | {"proj": ["conv", 1, 2]}]}, "unknown projection 'conv'"),
    ({"intermediate_matches": [MATCH | {"proj": ["linear", 1]}]}, r"write \[name, dim_S, dim_T\]"),
    ({"intermediate_matches": [MATCH | {"proj": ["linear", 1, 2, 0.1]}]}, "must be a dictionary"),
])
def test_mistakes_are_said_with_what_is_allowed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DistillationConfig(**settings)


def test_nothing_is_made_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TrainingConfig()
    assert list(tmp_path.iterdir()) == []


def test_the_users_lists_are_left_alone(tmp_path: Path) -> None:
    strategy, match = ["flsw", 1, 2], copy.deepcopy(MATCH)
    config = DistillationConfig(temperature_scheduler=strategy, intermediate_matches=[match])
    GeneralDistiller(tconf(tmp_path), config, teacher(), student(), adaptor, adaptor)
    assert match == MATCH and strategy == ["flsw", 1, 2]


@pytest.mark.filterwarnings("ignore:.*left out")
def test_training_never_changes_a_configuration(tmp_path: Path) -> None:
    def with_labels(batch: Any, out: Any) -> dict[str, Any]:
        return adaptor(batch, out) | {"labels": batch[1]}

    config = DistillationConfig(**EVERYTHING)
    before, text = copy.deepcopy(config), str(config)
    training = tconf(tmp_path)
    distiller = GeneralDistiller(training, config, teacher(), student(), with_labels, with_labels)
    distiller.train(sgd(distiller.model_S, lr=0.01), batches(3), num_epochs=2)
    assert config == before and str(config) == text and pickle.loads(pickle.dumps(config)) == before
    assert training == tconf(tmp_path) and distiller.d_config is config and distiller.t_config is training


# Weight schedules


@pytest.mark.parametrize("name", ["linear_decay", "linear_growth"])
def test_a_weight_schedule_replaces_the_weight_at_every_step(tmp_path: Path, name: str) -> None:
    """From x = 0 before the first of five steps, over the middle, to 4 / 5 before the last."""
    distiller = basic(tmp_path, kd_loss_weight=0, kd_loss_weight_scheduler=name, hard_label_weight=1)
    data = batches(5)
    distiller.train(sgd(distiller.model_S), data, num_epochs=1)
    models = teacher(), student()
    for step, (x, labels) in enumerate(data):
        weight = 1 - step / 5 if name == "linear_decay" else step / 5
        s = models[1](x, labels)
        loss = weight * kd(s["logits"], models[0](x)["logits"].detach()).mean() + s["loss"]
        gradients = torch.autograd.grad(loss, list(models[1].parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(models[1].parameters(), gradients, strict=True):
                parameter -= 0 if gradient is None else 0.1 * gradient
    torch.testing.assert_close(weights(distiller.model_S), weights(models[1]))


def test_at_the_start_a_growing_weight_is_zero_and_its_term_is_not_computed(tmp_path: Path) -> None:
    distiller = basic(tmp_path, hard_label_weight_scheduler="linear_growth")
    _, parts = distiller.train_on_batch(batches()[0])
    assert set(parts) == {"unweighted_kd_loss"}


@pytest.mark.parametrize(("settings", "name"), [
    ({"hard_label_weight": 7.0, "hard_label_weight_scheduler": "linear_growth"}, "hard_label_weight=7.0"),
    ({"kd_loss_weight": 0.5, "kd_loss_weight_scheduler": "linear_decay"}, "kd_loss_weight=0.5"),
])
def test_a_configured_weight_that_a_schedule_replaces_warns(settings: dict[str, Any], name: str) -> None:
    with pytest.warns(UserWarning, match=f"{name} has no effect: .* replaces it"):
        DistillationConfig(**settings)


@pytest.mark.parametrize("weight", [0, 1])
def test_a_weight_of_zero_or_one_beside_a_schedule_is_no_mistake(weight: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = DistillationConfig(hard_label_weight=weight, hard_label_weight_scheduler="linear_growth")
    assert config.hard_label_weight == weight


# Names from the maps


@pytest.fixture
def names() -> Any:
    yield
    for choices in (stillhouse.MATCH_LOSS_MAP, stillhouse.KD_LOSS_MAP, stillhouse.PROJ_MAP, stillhouse.WEIGHT_SCHEDULER,
                    stillhouse.TEMPERATURE_SCHEDULER):
        for name in [name for name in choices if name.startswith("my_")]:
            del choices[name]


@pytest.mark.usefixtures("names")
def test_a_users_function_is_a_configuration_value_at_once(tmp_path: Path) -> None:
    stillhouse.register_new("match_loss", "my_l1", lambda s, t, mask=None: (s - t[..., :6]).abs().mean())
    stillhouse.KD_LOSS_MAP["my_kd"] = lambda s, t, temperature=1: ((s - t) ** 2).sum() / temperature
    match = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "my_l1", "weight": 3}
    distiller = general(tmp_path, kd_loss_type="my_kd", temperature=2, intermediate_matches=[match])
    x = batches()[0][0]
    s, t = distiller.model_S(x), distiller.model_T(x)
    layers = (s["hidden"][0] - t["hidden"][0][..., :6]).abs().mean()
    wanted = ((s["logits"] - t["logits"]) ** 2).sum() / 2 + 3 * layers
    torch.testing.assert_close(distiller.train_on_batch((x,))[0], wanted)


@pytest.mark.usefixtures("names")
def test_users_schedules_strategies_and_projections_are_configuration_values_too(tmp_path: Path) -> None:
    stillhouse.register_new("weight_scheduler", "my_half", lambda x: 0.5)
    stillhouse.register_new("temperature_scheduler", "my_hot", lambda s, t, base: base * 3)
    stillhouse.register_new("projection", "my_wide", lambda a, b: torch.nn.Linear(a, b, bias=False))
    distiller = general(tmp_path, kd_loss_weight_scheduler="my_half", temperature_scheduler="my_hot", temperature=2,
                        intermediate_matches=[MATCH | {"proj": ["my_wide", 6, 8], "weight": 0}])
    x = batches()[0][0]
    s, t = distiller.model_S(x), distiller.model_T(x)
    torch.testing.assert_close(distiller.train_on_batch((x,))[0], 0.5 * kd(s["logits"], t["logits"], 6).mean())


def test_an_unknown_map_is_said() -> None:
    with pytest.raises(ConfigError, match="unknown map 'match_los'"):
        stillhouse.register_new("match_los", "x", len)


def test_the_old_import_paths_lead_to_the_same_things() -> None:
    import stillhouse.textbrewer as textbrewer
    from stillhouse.textbrewer import configurations, data_utils, distillers, losses, presets, schedulers, utils

    assert textbrewer.GeneralDistiller is distillers.GeneralDistiller is GeneralDistiller
    assert configurations.TrainingConfig is TrainingConfig and presets.KD_LOSS_MAP is stillhouse.KD_LOSS_MAP
    assert losses.kd_ce_loss is stillhouse.KD_LOSS_MAP["ce"] and schedulers.linear_decay_weight_scheduler(0.25) == 0.75
    assert callable(data_utils.masking) and callable(utils.display_parameters)


def test_files_of_the_original_load_unchanged(tmp_path: Path) -> None:
    training = {"gradient_accumulation_steps": 2, "ckpt_frequency": 2, "ckpt_epoch_frequency": 1, "ckpt_steps": None,
                "log_dir": None, "output_dir": "./saved_models", "device": "cuda", "fp16": False,
                "fp16_opt_level": "O1", "data_parallel": False, "local_rank": -1}
    distillation = {
        "temperature": 8, "temperature_scheduler": "none", "hard_label_weight": 0,
        "hard_label_weight_scheduler": "none", "kd_loss_type": "ce", "kd_loss_weight": 1,
        "kd_loss_weight_scheduler": "none", "probability_shift": False, "is_caching_logits": False,
        "intermediate_matches": [
            {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
             "proj": ["linear", 312, 768]},
            {"layer_T": 4, "layer_S": 1, "feature": "attention", "loss": "attention_mse", "weight": 1},
            {"layer_T": [0, 0], "layer_S": [0, 0], "feature": "hidden", "loss": "mmd", "weight": 1}]}
    for config, values in ((TrainingConfig, training), (DistillationConfig, distillation)):
        path = tmp_path / f"{config.__name__}.json"
        path.write_text(json.dumps(values))
        loaded = config.from_json_file(path).to_dict()
        for name, value in values.items():
            if name != "intermediate_matches":
                assert loaded[name] == (None if value == "none" else value), name
    matches = DistillationConfig.from_dict(distillation).intermediate_matches
    assert [match.loss for match in matches] == ["hidden_mse", "attention_mse", "mmd"]


def test_devices_and_tuples_as_scripts_pass_them() -> None:
    assert TrainingConfig(device=torch.device("cuda", 1)).device == "cuda:1"
    match = {"layer_T": (1, 1), "layer_S": (0, 0), "feature": "hidden", "loss": "nst", "proj": ("linear", 6, 8)}
    (made,) = DistillationConfig(intermediate_matches=(match,)).intermediate_matches
    assert (made.layer_T, made.layer_S, made.proj) == ([1, 1], [0, 0], ["linear", 6, 8])


def test_a_frozen_configuration_says_how_to_make_another() -> None:
    config = DistillationConfig()
    with pytest.raises(ConfigError, match=r"is frozen; make another one with temperature=8"):
        config.temperature = 8
    assert config == DistillationConfig()


def test_only_what_can_be_called_is_registered() -> None:
    with pytest.raises(ConfigError, match="3 cannot be called"):
        stillhouse.register_new("kd_loss", "my_three", 3)  # type: ignore[arg-type]
