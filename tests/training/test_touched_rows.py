"""Promises of updating only the touched rows: the weights are those of AdamW on all rows, whenever they are read."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from stillhouse.errors import PlanError
from stillhouse.training import touched_rows
from stillhouse.training.gradients import clip
from stillhouse.training.touched_rows import only_touched_rows, word_table

VOCABULARY, WIDTH, STEPS = 120, 5, 320
Moments = tuple[Tensor, Tensor, Tensor]


class Training:
    """Words as rare as in a language, a learning rate that rises and falls, weight decay, and noisy gradients."""

    def __init__(self, *, touched: bool, eps: float = 1e-30, scale: float = 1.0, dtype: torch.dtype = torch.float64,
                 max_norm: float | None = None, accumulation: int = 1) -> None:
        torch.manual_seed(0)
        self.scale, self.max_norm, self.accumulation = scale, max_norm, accumulation
        self.table = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0).to(dtype)
        self.optimizer = AdamW([self.table.weight], lr=0.01, weight_decay=0.1, eps=eps, fused=True)
        self.scheduler = LambdaLR(
            self.optimizer, lambda step: step / 40 if step < 40 else 1 - (step - 40) / STEPS)  # 0 in the first step
        self.draw = torch.Generator().manual_seed(1)
        self.target = torch.randn(VOCABULARY, WIDTH, generator=self.draw, dtype=torch.float64).to(dtype)
        self.inside: Any = only_touched_rows(self.table, self.optimizer) if touched else contextlib.nullcontext()

    def step(self) -> Tensor:
        """One optimizer step; what was read of the table."""
        self.optimizer.zero_grad()
        read = []
        for _ in range(self.accumulation):
            rare = 1 / torch.arange(1, VOCABULARY + 1).double()
            ids = torch.multinomial(rare, 12, replacement=True, generator=self.draw).reshape(3, 4)
            out = self.table(ids)
            read.append(out.detach().clone())
            noise = torch.randn(out.shape, generator=self.draw, dtype=torch.float64).to(out)
            ((out - self.target[ids] + noise) * self.scale).square().sum().backward()
        if self.max_norm is not None:
            clip([self.table.weight], self.max_norm)
        self.optimizer.step()
        self.scheduler.step()
        return torch.stack(read)

    def run(self, steps: int = STEPS) -> Tensor:
        """Train, and return everything that was read."""
        with self.inside:
            return self.go_on(steps)

    def go_on(self, steps: int) -> Tensor:
        """The same, inside already."""
        return torch.stack([self.step() for _ in range(steps)])

    def moments(self) -> Moments:
        state = self.optimizer.state[self.table.weight]
        return state["step"], state["exp_avg"], state["exp_avg_sq"]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).norm() / theirs.norm()).detach())


def both(**values: Any) -> tuple[Training, Tensor, Training, Tensor]:
    """The same training, of all rows and of those touched, and what each read."""
    every, touched = Training(touched=False, **values), Training(touched=True, **values)
    return every, every.run(), touched, touched.run()


@pytest.mark.parametrize("values", [{}, {"max_norm": 0.5}, {"accumulation": 3}, {"eps": 1e-8}])
def test_the_weights_are_those_of_adamw_on_all_rows(values: dict[str, Any]) -> None:
    every, read, touched, read_by_touched = both(**values)
    assert relative(touched.table.weight, every.table.weight) < 1e-12
    assert relative(read_by_touched, read) < 1e-12  # also at every step on the way
    for ours, theirs in zip(touched.moments(), every.moments(), strict=True):
        assert relative(ours, theirs) < 1e-12


@pytest.mark.parametrize("scale", [1e-3, 1e-4, 1e-5])
def test_the_difference_is_small_even_where_gradients_are_as_small_as_eps(scale: float) -> None:
    every, _, touched, _ = both(eps=1e-8, scale=scale)  # gradients are about scale * scale
    assert relative(touched.table.weight, every.table.weight) < 2e-4


def test_in_float32_the_difference_is_rounding() -> None:
    every, _, touched, _ = both(eps=1e-8, dtype=torch.float32)
    assert relative(touched.table.weight, every.table.weight) < 3e-6


def test_only_the_touched_rows_are_written_until_others_are_read() -> None:
    training = Training(touched=True)
    with training.inside:
        training.go_on(20)
        before = training.table.weight.detach().clone()
        ids = torch.tensor([3, 4])
        training.optimizer.zero_grad()
        training.table(ids).sum().backward()
        assert training.table.weight.grad is not None and training.table.weight.grad.is_sparse
        training.optimizer.step()
        changed = (training.table.weight.detach() != before).any(dim=1)
        assert set(changed.nonzero().flatten().tolist()) == set(ids.tolist())
        training.table.state_dict()
        assert bool((training.table.weight.detach() != before)[1:].any(dim=1).all())  # padding is 0, and stays
    assert not training.table.sparse


def test_what_is_remembered_of_past_steps_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touched_rows, "_HORIZON", 7)
    every, _, touched, _ = both()
    assert relative(touched.table.weight, every.table.weight) < 1e-12


def test_a_state_goes_on_bit_for_bit_and_is_that_of_adamw() -> None:
    whole, first, after = (Training(touched=True) for _ in range(3))
    with whole.inside:
        whole.go_on(150)
        whole.optimizer.state_dict()  # a checkpoint brings all rows up to date
        whole.go_on(50)
    with first.inside:
        first.go_on(150)
        state, weights, rates = first.optimizer.state_dict(), first.table.state_dict(), first.scheduler.state_dict()
        assert set(state["state"][0]) == {"step", "exp_avg", "exp_avg_sq"} and float(state["state"][0]["step"]) == 150
    with after.inside:
        after.table.load_state_dict(weights)
        after.optimizer.load_state_dict(state)
        after.scheduler.load_state_dict(rates)
        after.draw.set_state(first.draw.get_state())
        after.go_on(50)
    torch.testing.assert_close(after.table.weight, whole.table.weight, rtol=0, atol=0)
    for ours, theirs in zip(after.moments(), whole.moments(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_step_without_a_gradient_is_no_step() -> None:
    training = Training(touched=True)
    with training.inside:
        training.step()
        training.table.state_dict()
        before = training.table.weight.detach().clone()
        training.optimizer.zero_grad()
        training.optimizer.step()
    torch.testing.assert_close(training.table.weight.detach(), before, rtol=0, atol=0)


def test_another_use_of_the_table_is_refused_at_the_first_step() -> None:
    training = Training(touched=True)
    with training.inside:
        (training.table(torch.tensor([1])).sum() + training.table.weight.sum()).backward()
        with pytest.raises(PlanError, match="something beside its own forward uses it"):
            training.optimizer.step()


TINY = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)


def test_the_word_table_is_the_embeddings_of_words() -> None:
    model = BertForSequenceClassification(TINY)
    assert word_table(model) is model.bert.embeddings.word_embeddings


def test_a_table_with_two_uses_or_none_is_refused() -> None:
    with pytest.raises(PlanError, match=r"used in several places .*word_embeddings\.weight, cls\."):
        word_table(BertForMaskedLM(TINY))
    with pytest.raises(PlanError, match="Linear has no plain, trained table of word embeddings"):
        word_table(nn.Linear(2, 2))
