"""What a DistillationTrainer promises beside its gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from stillhouse import DistillationConfig, HuggingFaceAdaptor
from stillhouse.errors import CheckpointError, ConfigError, PlanError
from stillhouse.teachers import LiveTeacher
from stillhouse.trainer_bridge import DistillationTrainer
from stillhouse.trainer_bridge.trainer import LOSSES_FILE

from .parts import SECTION, arguments, collate, naive_gradients, rows, student, teacher, trainer

RESUMABLE: dict[str, Any] = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "save_strategy": "steps",
                             "save_steps": 3, "weight_decay": 0.1, "max_grad_norm": 1.0, "lr_scheduler_type": "linear"}

READER = HuggingFaceAdaptor("tokens")


def weights(made: DistillationTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in made.bundle.state_dict().items()}


class TestCheckpoints:
    def made(self, folder: Path) -> DistillationTrainer:
        return trainer(folder, options={"model": student(dropout=0.2)}, **RESUMABLE)

    def test_resumed_is_uninterrupted_to_the_last_bit(self, tmp_path: Path) -> None:
        whole = self.made(tmp_path)
        whole.train()
        again = self.made(tmp_path)
        before = weights(again)
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert again.state.global_step == 8
        for name, value in weights(whole).items():
            assert torch.equal(value, weights(again)[name]), name
        assert not torch.equal(before["objective.losses.hidden_mse 2-1.projection.linear.weight"],
                               weights(again)["objective.losses.hidden_mse 2-1.projection.linear.weight"])

    def test_what_losses_learned_is_in_checkpoints_and_in_no_exported_student(self, tmp_path: Path) -> None:
        made = self.made(tmp_path / "run")
        made.train()
        made.save_model(str(tmp_path / "exported"))
        assert (tmp_path / "run" / "checkpoint-3" / LOSSES_FILE).exists()
        assert not (tmp_path / "exported" / LOSSES_FILE).exists()
        loaded, about = AutoModelForTokenClassification.from_pretrained(tmp_path / "exported", output_loading_info=True)
        assert not about["unexpected_keys"] and not about["missing_keys"]
        assert loaded.config.num_hidden_layers == 1

    def test_what_goes_to_the_hub_is_the_student_alone(self, tmp_path: Path) -> None:
        made = self.made(tmp_path / "run")
        made.save_model(_internal_call=True)  # as push_to_hub does, without a folder
        assert (tmp_path / "run" / "model.safetensors").exists()
        assert not (tmp_path / "run" / LOSSES_FILE).exists()

    def test_a_checkpoint_of_another_trainer_is_refused(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        made.train()
        (tmp_path / "checkpoint-3" / LOSSES_FILE).unlink()
        with pytest.raises(CheckpointError, match=r"holds no distillation\.safetensors"):
            self.made(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        narrow = {"matches": [{"layers": [[2, 1]], "loss": "cos"}]}
        with pytest.raises(CheckpointError, match="another distillation"):
            trainer(tmp_path, options={"distillation": narrow}).train(
                resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


class TestOptimizer:
    def test_projections_are_trained_and_decay_as_the_student_does(self, tmp_path: Path) -> None:
        made = trainer(tmp_path, weight_decay=0.25)
        before = weights(made)
        made.train()
        changed = {name for name, value in weights(made).items() if not torch.equal(value, before[name])}
        assert {name for name in before if name.startswith("objective")} <= changed
        decays = {id(p): group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}
        for name, parameter in made.bundle.objective.named_parameters():
            assert decays[id(parameter)] == (0.0 if name.endswith("bias") else 0.25)

    def test_ones_own_optimizer_gets_the_projections_and_its_schedule_leads_them(self, tmp_path: Path) -> None:
        model = student()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        made = trainer(tmp_path, num_train_epochs=3, options={"model": model, "optimizers": (optimizer, schedule)})
        made.train()
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == (
            {id(p) for p in made.bundle.parameters()})
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025] * len(optimizer.param_groups))
        assert made.state.log_history[1]["learning_rate"] == pytest.approx(0.05)

    def test_training_twice_adds_nothing_twice(self, tmp_path: Path) -> None:
        made = trainer(tmp_path)
        made.train()
        held = len(made.optimizer.param_groups)
        made.train()
        assert len(made.optimizer.param_groups) == held

    def test_losses_that_learn_from_what_they_saw_do(self, tmp_path: Path) -> None:
        made = trainer(tmp_path, options={"distillation": {"matches": [{"loss": "emd_cost_attention"}]}},
                       num_train_epochs=2)
        before = {name: buffer.clone() for name, buffer in made.bundle.objective.named_buffers()}
        made.train()
        assert before and any(not torch.equal(buffer, before[name])
                              for name, buffer in made.bundle.objective.named_buffers())


class TestTeacher:
    def test_it_is_as_it_was(self, tmp_path: Path) -> None:
        own = teacher()
        own.bert.encoder.train()
        own.classifier.weight.requires_grad_(False)
        before, modes = copy.deepcopy(own.state_dict()), [module.training for module in own.modules()]
        made = trainer(tmp_path, options={"teacher": own})
        made.train()
        assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
        assert [module.training for module in own.modules()] == modes
        assert all(parameter.grad is None for parameter in own.parameters())
        assert not own.classifier.weight.requires_grad and own.bert.pooler is None
        held = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
        assert not held & {id(p) for p in own.parameters()}

    def test_several_are_averaged(self, tmp_path: Path) -> None:
        first, second = teacher(), teacher()
        with torch.no_grad():
            second.classifier.bias.add_(torch.tensor([3.0, 0.0, -3.0]))
        made = trainer(tmp_path, options={"teacher": [first, second],
                                          "distillation": {"temperature": 1.0, "loss": "mse"}})
        made.train()
        batch = {name: value for name, value in collate(rows()).items() if name != "labels"}
        fresh = student()
        with torch.no_grad():
            wanted = (first(**batch).logits + second(**batch).logits) / 2
            error = F.mse_loss(fresh(**batch).logits, wanted, reduction="none")[batch["attention_mask"].bool()]
        assert made.state.log_history[0]["loss/kd"] == pytest.approx(float(error.mean()), rel=1e-9)

    def test_a_source_is_taken_as_it_is(self, tmp_path: Path) -> None:
        source = LiveTeacher(teacher(), HuggingFaceAdaptor("tokens"))
        made = trainer(tmp_path, options={"teacher": source})
        assert made.plan.teacher is source
        made.train()
        assert source.rows_forwarded == 8


class TestCache:
    def test_the_second_epoch_asks_nothing(self, tmp_path: Path) -> None:
        made = trainer(tmp_path, num_train_epochs=3, per_device_train_batch_size=3, options={"cache": "memory"})
        made.train()
        assert made.plan.teacher.rows_forwarded == 8

    def test_another_training_asks_nothing_and_learns_the_same(self, tmp_path: Path) -> None:
        trained = [trainer(tmp_path / str(i), num_train_epochs=2, per_device_train_batch_size=3, optim="sgd",
                           options=options)  # AdamW makes much of a gradient that is 0 but for rounding
                   for i, options in enumerate([{"cache": tmp_path / "kept"}, {"cache": tmp_path / "kept"}, {}])]
        for made in trained:
            made.train()
        assert [made.plan.teacher.rows_forwarded for made in trained] == [8, 0, 16]
        for name, value in weights(trained[2]).items():
            for made in trained[:2]:
                torch.testing.assert_close(weights(made)[name], value, rtol=1e-9, atol=1e-12)


class TestEvaluation:
    def test_it_is_the_students_own_loss_and_asks_no_teacher(self, tmp_path: Path) -> None:
        made = trainer(tmp_path, per_device_eval_batch_size=8)
        metrics = made.evaluate(rows())
        batch = collate(rows())
        with torch.no_grad():
            wanted = F.cross_entropy(made.bundle.student.eval()(batch["input_ids"], batch["attention_mask"]).logits
                                     .flatten(0, 1), batch["labels"].flatten())
        assert metrics["eval_loss"] == pytest.approx(float(wanted), rel=1e-9)
        assert made.plan.teacher.rows_forwarded == 0

    def test_the_best_model_is_chosen_by_it(self, tmp_path: Path) -> None:
        made = trainer(tmp_path, num_train_epochs=2, eval_strategy="epoch", save_strategy="epoch",
                       load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=False,
                       options={"eval_dataset": rows(6)})
        made.train()
        assert made.state.best_metric == min(log["eval_loss"] for log in made.state.log_history if "eval_loss" in log)

    def test_predictions_are_the_students(self, tmp_path: Path) -> None:
        made = trainer(tmp_path)
        found = made.predict(rows(5))
        assert found.predictions.shape[0] == 5 and found.predictions.shape[2] == 3


def sequences(n: int = 8) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    return Dataset.from_list([{
        "text": "never read", "input_ids": torch.randint(1, 20, (5,), generator=generator).tolist(),
        "attention_mask": [1] * 5, "token_type_ids": [0, 0, 1, 1, 1], "label": i % 2, "soft_labels": [0.5, 0.5],
    } for i in range(n)])


class TestColumns:
    def made(self, folder: Path, **options: Any) -> DistillationTrainer:
        torch.manual_seed(0)
        large = BertForSequenceClassification(BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
            initializer_range=0.5))
        small = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=20, dim=8, n_layers=1, n_heads=2,
                                                                     hidden_dim=8))
        return DistillationTrainer(small, arguments(folder, per_device_eval_batch_size=4), train_dataset=sequences(),
                                   eval_dataset=sequences(), teacher=large, distillation={"loss": "mse"}, **options)

    def test_the_teacher_gets_what_the_student_has_no_use_for(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        seen: list[Tensor] = []
        model: Any = made.plan.teacher.model  # type: ignore[attr-defined]
        model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["token_type_ids"]),
                                        with_kwargs=True)
        made.train()
        assert seen[0].tolist() == [[0, 0, 1, 1, 1]] * 8

    def test_evaluation_gives_the_student_what_it_reads(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        assert made.evaluate()["eval_loss"] > 0
        assert made.predict(sequences().remove_columns("label")).predictions.shape == (8, 2)


class TestRefusals:
    @pytest.mark.parametrize(("options", "settings", "message"), [
        ({"compute_loss_func": lambda *args, **more: 0}, {}, "compute_loss_func"),
        ({}, {"label_smoothing_factor": 0.1}, "not smoothed"),
        ({}, {"torch_compile": True}, "torch_compile=False"),
        ({"teacher": "bert-base-uncased"}, {}, "teacher is a str"),
        ({"distillation": "kd"}, {}, "distillation is a str"),
        ({"teacher": None}, {}, "give a model as teacher|of a teacher"),
        ({"distillation": {"matches": [{"layers": [[7, 1]], "loss": "hidden_mse"}]}}, {}, "7"),
        ({"cache_dtype": torch.bfloat16}, {}, "cache_dtype=torch.bfloat16: nothing is kept"),
        ({"teacher": LiveTeacher(teacher(), READER), "teacher_adaptor": READER}, {}, "there is no teacher model"),
        ({"teacher": None, "distillation": {"loss_weight": 0, "hard_label_weight": 1}, "cache": "memory"}, {},
         "without a teacher"),
    ])
    def test_what_cannot_work_is_said_before_training(self, tmp_path: Path, options: dict[str, Any],
                                                      settings: dict[str, Any], message: str) -> None:
        with pytest.raises((PlanError, ConfigError), match=message):
            trainer(tmp_path, options=options, **settings)

    def test_an_unknown_key_of_the_section_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="temprature"):
            trainer(tmp_path, options={"distillation": {"temprature": 3}})

    def test_several_gpus_in_one_process_are_refused(self, tmp_path: Path) -> None:
        given = arguments(tmp_path)
        assert given.device.type == "cpu"
        given._n_gpu = 2
        with pytest.raises(PlanError, match="torchrun"):
            DistillationTrainer(student(), given, collate, rows(), teacher=teacher(), distillation=SECTION)

    def test_a_model_made_later_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PlanError, match="model_init"):
            DistillationTrainer(args=arguments(tmp_path), model_init=lambda: student(), teacher=teacher(),
                                distillation=SECTION)

    def test_an_option_that_the_optimizer_lacks_is_refused(self, tmp_path: Path) -> None:
        config = DistillationConfig(intermediate_matches=[
            {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 0.7,
             "proj": ["linear", 8, 12, {"momentun": 0.5}]}])
        with pytest.raises(PlanError, match="momentun"):
            trainer(tmp_path, options={"distillation": config}).train()


def test_naive_gradients_reach_every_projection(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    found, _ = naive_gradients(made, rows())
    assert {f"objective.{name}" for name, _ in made.bundle.objective.named_parameters()} <= set(found)
