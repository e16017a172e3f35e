"""Students that are not all trained, or that share weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import BertConfig, BertForMaskedLM

from stillhouse.adaptors import FunctionAdaptor, HuggingFaceAdaptor
from stillhouse.batches import as_batch
from stillhouse.losses import ForwardKL
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.teachers import LiveTeacher
from stillhouse.training import Bundle, EverySteps, FitOptions, LoaderSource, fit
from stillhouse.training import checkpoint as checkpoints
from stillhouse.training.precision import Precision
from stillhouse.training.step import accumulate_gradients
from stillhouse.types import Progress

from .resumable import StopAt
from .toy import collate, make_plan, rows, split

MakePlan = Callable[[], Distillation]


def train(plan: Distillation, folder: Path, batches: Any, **settings: Any) -> list[Tensor]:
    """Two epochs, each trained parameter moved by AdamW with decay; all parameters afterwards."""
    optimizer = torch.optim.AdamW(Bundle(plan).parameters(), lr=0.05, weight_decay=0.1)
    stop = settings.pop("stop_at", None)
    options = FitOptions(num_epochs=2, max_grad_norm=0.1, output_dir=folder, save=EverySteps(1), sinks=[StopAt(stop)],
                         **settings)
    fit(plan, LoaderSource(batches), optimizer, options)
    return [parameter.detach().clone() for parameter in Bundle(plan).parameters()]


def assert_resumes(make: MakePlan, folder: Path, batches: Any) -> Distillation:
    """Stopped after step 3 and resumed equals uninterrupted, to the last bit. Returns the resumed plan."""
    whole = train(make(), folder / "whole", batches)
    with pytest.raises(KeyboardInterrupt):
        train(make(), folder / "cut", batches, stop_at=3)
    plan = make()
    resumed = train(plan, folder / "cut", batches, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    return plan


def gradients(plan: Distillation, batches: list[Any]) -> dict[str, Tensor | None]:
    bundle = Bundle(plan)
    scaler = Precision().scaler(torch.device("cpu"))
    accumulate_gradients(plan, bundle, bundle, [as_batch(b) for b in batches], Progress(0, 1), {}, scaler)
    return {name: parameter.grad for name, parameter in bundle.named_parameters()}


# Frozen parameters


def frozen_plan(dropout: float = 0.2) -> Distillation:
    """The student's middle is frozen: what lies before it and after it is trained."""
    plan = make_plan(dropout=dropout)
    plan.student.inner.requires_grad_(False)
    return plan


def test_frozen_parameters_get_no_gradient_and_the_others_the_same_one() -> None:
    everything, some = gradients(make_plan(), split([3, 5])), gradients(frozen_plan(dropout=0.0), split([3, 5]))
    assert some.pop("student.inner") is None and everything.pop("student.inner") is not None
    for name, gradient in some.items():
        torch.testing.assert_close(gradient, everything[name], rtol=1e-12, atol=1e-14)


def test_frozen_parameters_stay_and_clipping_covers_the_rest(tmp_path: Path) -> None:
    plan = frozen_plan()
    before = {name: value.clone() for name, value in plan.student.state_dict().items()}
    norms: list[float] = []

    def norm(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        trained = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.cat(trained))))

    handle = register_optimizer_step_pre_hook(norm)
    try:
        train(plan, tmp_path, split([4, 4]))
    finally:
        handle.remove()
    assert norms == pytest.approx([0.1] * 4, rel=1e-4)
    after = plan.student.state_dict()
    assert plan.student.inner.grad is None and not plan.student.inner.requires_grad
    assert {name for name in before if torch.equal(before[name], after[name])} == {"inner"}
    assert torch.equal(load_file(tmp_path / "gs4" / "model.safetensors")["inner"], before["inner"])


def test_a_student_with_frozen_parameters_resumes(tmp_path: Path) -> None:
    assert not assert_resumes(frozen_plan, tmp_path, split([4, 4])).student.inner.requires_grad


# Tied weights


class TiedModel(nn.Module):
    """Predicts the token at each position from its embedding's neighbours; the head is the embedding."""

    def __init__(self, width: int, seed: int, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(11, width, dtype=torch.float64)
        self.head = nn.Linear(width, 11, dtype=torch.float64)
        if tied:
            self.head.weight = self.embedding.weight
        else:
            self.head.load_state_dict({"weight": self.embedding.weight.detach(), "bias": self.head.bias.detach()})

    def forward(self, ids: Tensor, mask: Tensor, keep: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.embedding(ids)))
        return logits


def tied_plan(tied: bool = True) -> Distillation:
    adaptor = FunctionAdaptor(lambda batch, logits: {"logits": logits},
                              masks=lambda batch: {"logits_mask": batch["mask"]})
    teacher = LiveTeacher(TiedModel(8, seed=2, tied=False), adaptor)
    return Distillation(TiedModel(4, 1, tied), adaptor, teacher, Objective([Term("kl", ForwardKL(2.0))]))


def test_a_tied_weight_gets_the_gradient_of_both_its_uses() -> None:
    tied, apart = gradients(tied_plan(), split([3, 5])), gradients(tied_plan(tied=False), split([3, 5]))
    assert set(tied) == {"student.embedding.weight", "student.head.bias"}
    uses = apart["student.embedding.weight"], apart["student.head.weight"]
    assert uses[0] is not None and uses[1] is not None and uses[0].abs().sum() > 0 and uses[1].abs().sum() > 0
    torch.testing.assert_close(tied["student.embedding.weight"], uses[0] + uses[1], rtol=1e-12, atol=1e-14)


def test_a_student_with_tied_weights_resumes_and_stays_tied(tmp_path: Path) -> None:
    student = assert_resumes(tied_plan, tmp_path, split([4, 4])).student
    assert student.head.weight is student.embedding.weight
    kept = load_file(tmp_path / "cut" / "gs4" / "model.safetensors")
    assert set(kept) == {"embedding.weight", "head.weight", "head.bias"}
    assert torch.equal(kept["head.weight"], student.embedding.weight)
    other = TiedModel(4, seed=9)
    checkpoints.load_student(tmp_path / "cut" / "gs4", other)
    batch = collate(rows())
    assert torch.equal(other(**batch), student(**batch))


def test_a_checkpoint_of_a_tied_hugging_face_student_loads_as_such(tmp_path: Path) -> None:
    def bert(seed: int) -> Any:
        torch.manual_seed(seed)
        return BertForMaskedLM(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                          intermediate_size=8, max_position_embeddings=16))

    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    adaptor = HuggingFaceAdaptor("tokens")
    plan = Distillation(bert(0), adaptor, LiveTeacher(bert(1), adaptor), Objective([Term("kl", ForwardKL(2.0))]))
    train(plan, tmp_path, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
    student: Any = plan.student
    loaded: Any = BertForMaskedLM.from_pretrained(tmp_path / "gs2")
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    assert torch.equal(loaded(ids).logits, student.eval()(ids).logits)
