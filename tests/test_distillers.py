"""The paper's API, used as its users use it."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stillhouse
from stillhouse import (
    BasicDistiller,
    BasicTrainer,
    DistillationConfig,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
    TrainingConfig,
)
from stillhouse.errors import ConfigError, OutputError, PlanError
from stillhouse.training import checkpoint


class Toy(nn.Module):
    """(B, L, 4) -> logits (B, 3), hidden states of every layer, and a loss if labels are given."""

    def __init__(self, width: int, layers: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(4 if i == 0 else width, width) for i in range(layers))
        self.out = nn.Linear(width, 3)
        self.calls: list[bool] = []

    def forward(self, x: Tensor, labels: Tensor | None = None, scale: float = 1.0) -> dict[str, Any]:
        self.calls.append(self.training)
        hidden = []
        for layer in self.layers:
            x = torch.tanh(layer(x))
            hidden.append(x)
        logits = self.out(x.mean(1)) * scale
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits, "hidden": hidden, "loss": loss}


def adaptor(batch: Any, out: Mapping[str, Any]) -> dict[str, Any]:
    found = {"logits": out["logits"], "hidden": out["hidden"]}
    return found if out["loss"] is None else found | {"losses": out["loss"]}


def batches(n: int = 4, rows: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(rows, 5, 4, generator=generator), torch.randint(0, 3, (rows,), generator=generator))
            for _ in range(n)]


def tconf(tmp_path: Path, **settings: Any) -> TrainingConfig:
    return TrainingConfig(device="cpu", output_dir=str(tmp_path / "out"), **settings)


MATCH = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 2.0, "proj": ["linear", 6, 8]}


def general(tmp_path: Path, **settings: Any) -> GeneralDistiller:
    config = DistillationConfig(temperature=2, hard_label_weight=0.5, intermediate_matches=[MATCH], **settings)
    return GeneralDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)


def test_every_distiller_trains_through_the_same_interface(tmp_path: Path) -> None:
    config = DistillationConfig(temperature=2)
    teachers = [Toy(8, 3, 1), Toy(8, 3, 3)]
    distillers = [
        BasicTrainer(tconf(tmp_path / "0"), Toy(6, 2, 2), adaptor),
        BasicDistiller(tconf(tmp_path / "1"), config, teachers[0], Toy(6, 2, 2), adaptor, adaptor),
        general(tmp_path / "2"),
        MultiTeacherDistiller(tconf(tmp_path / "3"), config, teachers, Toy(6, 2, 2), adaptor, adaptor),
    ]
    for distiller in distillers:
        before = copy.deepcopy(distiller.model_S.state_dict())
        seen: list[int] = []
        optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.1)
        with distiller:
            distiller.train(optimizer, batches(), num_epochs=2, callback=lambda model, step, s=seen: s.append(step))
        assert seen == [4, 8]
        assert any(not torch.equal(before[name], value) for name, value in distiller.model_S.state_dict().items())


def test_several_tasks_share_one_student(tmp_path: Path) -> None:
    teachers = {"a": Toy(8, 3, 1), "b": Toy(8, 3, 2)}
    student = Toy(6, 2, 3)
    adaptors = {"a": adaptor, "b": adaptor}
    distiller = MultiTaskDistiller(tconf(tmp_path), DistillationConfig(), teachers, student, adaptors, adaptors)
    with distiller:
        distiller.train(torch.optim.SGD(student.parameters(), lr=0.1), {"a": batches(3), "b": batches(1)}, num_steps=20)
    calls = {task: len(teacher.calls) for task, teacher in teachers.items()}
    assert sum(calls.values()) == 20 and calls["a"] > calls["b"] > 0


def test_the_total_is_the_weighted_sum_of_its_parts(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    total, parts = distiller.train_on_batch(batches()[0], {})
    assert set(parts) == {"unweighted_kd_loss", "unweighted_hard_label_loss", "unweighted_hidden_hidden_mse_1_2"}
    wanted = (parts["unweighted_kd_loss"] + 0.5 * parts["unweighted_hard_label_loss"]
              + 2.0 * parts["unweighted_hidden_hidden_mse_1_2"])
    torch.testing.assert_close(total.detach(), wanted)
    total.backward()
    assert all(parameter.grad is not None for parameter in distiller.model_S.parameters())


def test_parts_equal_the_formulas_written_down(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    x, labels = batches()[0]
    _, parts = distiller.train_on_batch((x, labels), {})
    s, t = distiller.model_S(x, labels), distiller.model_T(x)
    kd = -((t["logits"] / 2).softmax(-1) * (s["logits"] / 2).log_softmax(-1)).sum(-1).mean()
    projection = distiller.plan.objective.losses["unweighted_hidden_hidden_mse_1_2"].projection
    match = nn.functional.mse_loss(projection(s["hidden"][1]), t["hidden"][2])
    for name, value in (("kd_loss", kd), ("hard_label_loss", s["loss"]), ("hidden_hidden_mse_1_2", match)):
        torch.testing.assert_close(parts[f"unweighted_{name}"], value.detach())


def test_teachers_evaluate_and_students_train_even_without_the_with_block(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    distiller.model_T.train()
    distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), batches(1), num_epochs=1)
    assert distiller.model_T.calls == [False] and distiller.model_S.calls == [True]
    assert distiller.model_T.training


def test_no_extra_forward_is_ever_run(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    with distiller:
        distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), batches(4), num_epochs=3)
    assert len(distiller.model_T.calls) == len(distiller.model_S.calls) == 12


def test_accumulation_of_row_losses_costs_no_extra_forward(tmp_path: Path) -> None:
    config = tconf(tmp_path, gradient_accumulation_steps=4)
    distiller = BasicDistiller(config, DistillationConfig(), Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
    with distiller:
        distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), batches(4), num_epochs=3)
    assert len(distiller.model_T.calls) == len(distiller.model_S.calls) == 12


def test_cached_logits_ask_the_teacher_once(tmp_path: Path) -> None:
    weights = []
    for caching in (False, True):
        config = DistillationConfig(is_caching_logits=caching)
        distiller = BasicDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
        for _ in range(2):
            distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), batches(4), num_epochs=3)
        weights.append(torch.cat([p.detach().flatten() for p in distiller.model_S.parameters()]))
        assert len(distiller.model_T.calls) == (4 if caching else 24)
    torch.testing.assert_close(*weights)


def test_projections_join_the_optimizer_once_with_their_own_options(tmp_path: Path) -> None:
    config = DistillationConfig(intermediate_matches=[MATCH | {"proj": ["linear", 6, 8, {"lr": 0.5}]}])
    distiller = GeneralDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.1)
    for _ in range(2):
        distiller.train(optimizer, batches(1), num_epochs=1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]


def test_a_ready_made_scheduler_that_would_miss_the_projections_is_refused(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    optimizer = torch.optim.SGD(distiller.model_S.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(PlanError, match="scheduler_class="):
        distiller.train(optimizer, batches(1), num_epochs=1, scheduler=scheduler)


def test_batches_may_be_mappings_or_one_for_each_side(tmp_path: Path) -> None:
    x, labels = batches()[0]
    distiller = general(tmp_path)
    values = [float(distiller.train_on_batch(batch, {})[0].detach()) for batch in (
        (x, labels), {"x": x, "labels": labels}, {"teacher": {"x": x}, "student": (x, labels)},
    )]
    assert values == pytest.approx([values[0]] * 3)


def test_extra_arguments_reach_both_models(tmp_path: Path) -> None:
    distiller = general(tmp_path)
    plain, scaled = (distiller.train_on_batch(batches()[0], args)[1]["unweighted_kd_loss"]
                     for args in ({}, {"scale": 9.0}))
    assert not torch.allclose(plain, scaled)


def test_weight_schedules_replace_the_weight_and_never_touch_the_configuration(tmp_path: Path) -> None:
    config = DistillationConfig(hard_label_weight=7.0, hard_label_weight_scheduler="linear_growth")
    distiller = BasicDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
    _, parts = distiller.train_on_batch(batches()[0], {})
    assert set(parts) == {"unweighted_kd_loss"}, "at the start of training the weight is 0"
    distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), batches(2), num_epochs=1)
    assert config == DistillationConfig(hard_label_weight=7.0, hard_label_weight_scheduler="linear_growth")


def test_the_same_seed_gives_the_same_student(tmp_path: Path) -> None:
    weights = []
    for _ in range(2):
        models = Toy(8, 3, 1), Toy(6, 2, 2)
        distiller = BasicDistiller(tconf(tmp_path, seed=3), DistillationConfig(), *models, adaptor, adaptor)
        loader = torch.utils.data.DataLoader(torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(0)),
                                             batch_size=4, shuffle=True, collate_fn=lambda rows: (torch.stack(rows),))
        distiller.train(torch.optim.Adam(distiller.model_S.parameters()), loader, num_epochs=2)
        weights.append(torch.cat([p.detach().flatten() for p in distiller.model_S.parameters()]))
    assert torch.equal(*weights)


def test_resume_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    def train(folder: Path, resume: bool, stop: bool = False) -> Tensor:
        config = TrainingConfig(device="cpu", output_dir=str(folder), resume=resume, ckpt_steps=3)
        distiller = BasicDistiller(config, DistillationConfig(), Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)

        def callback(model: nn.Module, step: int) -> None:
            if stop:
                raise KeyboardInterrupt

        distiller.train(torch.optim.Adam(distiller.model_S.parameters()), batches(4), num_steps=7, callback=callback)
        return torch.cat([p.detach().flatten() for p in distiller.model_S.parameters()])

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", resume=False, stop=True)
    assert checkpoint.steps(tmp_path / "cut") == [3]
    assert torch.equal(train(tmp_path / "cut", resume=True), train(tmp_path / "whole", resume=False))


class TestRefusals:
    def test_subclassing_says_what_to_write_instead(self) -> None:
        with pytest.raises(TypeError, match="write a loss"):
            type("Mine", (BasicDistiller,), {})

    def test_a_trainer_without_losses_says_so(self, tmp_path: Path) -> None:
        trainer = BasicTrainer(tconf(tmp_path), Toy(6, 2, 2), lambda b, o: {"logits": o["logits"]})
        with pytest.raises(OutputError, match="losses"):
            trainer.train_on_batch(batches()[0], {})

    def test_a_layer_that_does_not_exist_names_what_there_is(self, tmp_path: Path) -> None:
        config = DistillationConfig(intermediate_matches=[MATCH | {"layer_T": 12}])
        distiller = GeneralDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
        with pytest.raises(OutputError, match="'hidden' list has 3 entries"):
            distiller.train_on_batch(batches()[0], {})

    def test_widths_that_differ_name_the_projection(self, tmp_path: Path) -> None:
        config = DistillationConfig(intermediate_matches=[MATCH | {"proj": None}])
        distiller = GeneralDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
        with pytest.raises(OutputError, match=r"proj: \[linear, 6, 8\]"):
            distiller.train_on_batch(batches()[0], {})

    def test_different_tasks_on_the_sides_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PlanError, match="same tasks"):
            MultiTaskDistiller(tconf(tmp_path), DistillationConfig(), {"a": Toy(8, 3, 1)}, Toy(6, 2, 2),
                               {"a": adaptor}, {"b": adaptor})

    def test_neither_epochs_nor_steps(self, tmp_path: Path) -> None:
        distiller = general(tmp_path)
        with pytest.raises(PlanError, match="num_epochs or num_steps"):
            distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), batches(1))

    @pytest.mark.parametrize("make", ["basic", "multi"])
    def test_matches_that_would_be_ignored_warn(self, tmp_path: Path, make: str) -> None:
        config = DistillationConfig(intermediate_matches=[MATCH])
        with pytest.warns(UserWarning, match="ignores intermediate_matches"):
            if make == "basic":
                BasicDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
            else:
                MultiTeacherDistiller(tconf(tmp_path), config, [Toy(8, 3, 1)], Toy(6, 2, 2), adaptor, adaptor)


class TestConfig:
    def test_it_goes_to_files_and_back(self, tmp_path: Path) -> None:
        config = DistillationConfig(temperature=8, intermediate_matches=[MATCH],
                                    kd_loss_weight_scheduler="linear_decay")
        config.to_json_file(tmp_path / "c.json")
        config.to_yaml_file(tmp_path / "c.yaml")
        assert DistillationConfig.from_json_file(tmp_path / "c.json") == config
        assert DistillationConfig.from_yaml_file(tmp_path / "c.yaml") == config
        assert DistillationConfig.from_dict(config.to_dict()) == config
        assert pickle.loads(pickle.dumps(config)) == config

    def test_paths_go_to_files_and_back_too(self, tmp_path: Path) -> None:
        config = TrainingConfig(output_dir=tmp_path / "out", log_dir=tmp_path)
        config.to_json_file(tmp_path / "c.json")
        config.to_yaml_file(tmp_path / "c.yaml")
        assert TrainingConfig.from_json_file(tmp_path / "c.json") == config
        assert TrainingConfig.from_dict(config.to_dict()) == config
        assert TrainingConfig.from_yaml_file(tmp_path / "c.yaml") == config

    def test_it_is_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            DistillationConfig().temperature = 3  # type: ignore[misc]

    @pytest.mark.parametrize(("settings", "message"), [
        ({"temperatur": 3}, "did you mean 'temperature'"),
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": "8"}, "temperature='8'"),
        ({"kd_loss_type": "klx"}, "unknown kd_loss_type 'klx'.*ce, mse"),
        ({"temperature_scheduler": "flsv"}, "unknown temperature strategy"),
        ({"intermediate_matches": [MATCH | {"loss": "hiden_mse"}]}, "did you mean 'hidden_mse'"),
        ({"intermediate_matches": [MATCH | {"feature": "hid"}]}, "unknown feature 'hid'"),
        ({"intermediate_matches": [MATCH | {"proj": ["conv", 1, 2]}]}, "unknown projection 'conv'"),
        ({"intermediate_matches": [MATCH | {"proj": ["linear", 1]}]}, r"write \[name, dim_S, dim_T\]"),
    ])
    def test_mistakes_are_said_with_what_is_allowed(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DistillationConfig(**settings)

    def test_nothing_is_made_on_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        TrainingConfig()
        assert list(tmp_path.iterdir()) == []

    def test_the_users_lists_are_left_alone(self, tmp_path: Path) -> None:
        match = copy.deepcopy(MATCH)
        config = DistillationConfig(intermediate_matches=[match])
        GeneralDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
        assert match == MATCH

    def test_settings_without_effect_warn(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="data_parallel has no effect"):
            TrainingConfig(data_parallel=True)
        config = DistillationConfig(is_caching_logits=True)
        models, adaptors = {"a": Toy(8, 3, 1)}, {"a": adaptor}
        with pytest.warns(UserWarning, match="MultiTaskDistiller does not cache"):
            MultiTaskDistiller(tconf(tmp_path), config, models, Toy(6, 2, 2), adaptors, adaptors)
        for setting in ({"ckpt_steps": 3}, {"local_rank": 0}):
            trainer = BasicTrainer(tconf(tmp_path, **setting), Toy(6, 2, 2), adaptor)
            with pytest.warns(UserWarning, match=f"{next(iter(setting))} has no effect"):
                trainer.train(torch.optim.SGD(trainer.model_S.parameters(), lr=0.1), batches(1), num_epochs=1)

    def test_a_registered_temperature_strategy_is_refused_rather_than_ignored(self) -> None:
        stillhouse.register_new("temperature_scheduler", "mine", lambda s, t, base: base)
        try:
            with pytest.raises(ConfigError, match="not available yet"):
                DistillationConfig(temperature_scheduler="mine")
        finally:
            del stillhouse.TEMPERATURE_SCHEDULER["mine"]

    def test_hard_labels_without_the_adaptors_losses_warn(self, tmp_path: Path) -> None:
        config = DistillationConfig(hard_label_weight=1.0)
        distiller = BasicDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
        with pytest.warns(UserWarning, match="'unweighted_hard_label_loss' has a weight but is left out"):
            distiller.train_on_batch((batches()[0][0],), {})


class TestPresets:
    @pytest.fixture
    def names(self) -> Any:
        yield
        for choices in (stillhouse.MATCH_LOSS_MAP, stillhouse.KD_LOSS_MAP, stillhouse.PROJ_MAP):
            for name in [name for name in choices if name.startswith("my_")]:
                del choices[name]

    @pytest.mark.usefixtures("names")
    def test_a_users_function_is_a_configuration_value_at_once(self, tmp_path: Path) -> None:
        stillhouse.register_new("match_loss", "my_l1", lambda s, t, mask=None: (s - t[..., :6]).abs().mean())
        stillhouse.KD_LOSS_MAP["my_kd"] = lambda s, t, temperature=1: ((s - t) ** 2).sum() / temperature
        match = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "my_l1", "weight": 3}
        config = DistillationConfig(kd_loss_type="my_kd", temperature=2, intermediate_matches=[match])
        distiller = GeneralDistiller(tconf(tmp_path), config, Toy(8, 3, 1), Toy(6, 2, 2), adaptor, adaptor)
        x = batches()[0][0]
        s, t = distiller.model_S(x), distiller.model_T(x)
        layers = (s["hidden"][0] - t["hidden"][0][..., :6]).abs().mean()
        wanted = ((s["logits"] - t["logits"]) ** 2).sum() / 2 + 3 * layers
        torch.testing.assert_close(distiller.train_on_batch((x,), {})[0], wanted)

    def test_an_unknown_map_is_said(self) -> None:
        with pytest.raises(ConfigError, match="unknown map 'match_los'"):
            stillhouse.register_new("match_los", "x", len)


def test_the_old_import_paths_lead_to_the_same_things() -> None:
    import stillhouse.textbrewer as textbrewer
    from stillhouse.textbrewer import (
        configurations,
        data_utils,
        distillers,
        losses,
        presets,
        projections,
        schedulers,
        utils,
    )

    assert textbrewer.GeneralDistiller is distillers.GeneralDistiller is GeneralDistiller
    assert configurations.TrainingConfig is TrainingConfig and presets.KD_LOSS_MAP is stillhouse.KD_LOSS_MAP
    assert losses.kd_ce_loss is stillhouse.KD_LOSS_MAP["ce"] and schedulers.linear_decay_weight_scheduler(0.25) == 0.75
    assert callable(data_utils.masking) and callable(utils.display_parameters) and callable(projections.linear)


def test_a_warning_is_no_noise(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller = general(tmp_path)
        distiller.train(torch.optim.SGD(distiller.model_S.parameters(), lr=0.1), batches(1), num_epochs=1)
    assert checkpoint.steps(tmp_path / "out") == [1]
