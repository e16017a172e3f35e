"""Invariants of the whole: what holds for any objective, whatever the models are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForSequenceClassification

from stillhouse.adaptors import Adaptor, FunctionAdaptor, HuggingFaceAdaptor, ModulePathAdaptor
from stillhouse.batches import as_batch
from stillhouse.losses import NST, PKD, Cosine, ForwardKL, HardLabels, HiddenMSE, LogitsLoss, SoftCrossEntropy
from stillhouse.losses import base as losses_base
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.projections import linear
from stillhouse.teachers import CachedTeacher, LiveTeacher
from stillhouse.teachers.stores import MemoryStore
from stillhouse.training import Bundle, FitOptions, LoaderSource, fit
from stillhouse.training.precision import Precision
from stillhouse.training.step import StepResult, accumulate_gradients
from stillhouse.types import LOGITS, Batch, Key, Progress

CPU = torch.device("cpu")
WIDTH = 4
H1, H2 = Key("hidden", 0), Key("hidden", 1)


class Tagger(nn.Module):
    """Logits for each token and two hidden states, in float64; dropout in training."""

    def __init__(self, seed: int, width: int = WIDTH, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(12, width, dtype=torch.float64)
        self.inner, self.out = (nn.Linear(width, n, dtype=torch.float64) for n in (width, 3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None) -> dict[str, Any]:
        first = self.embedding(input_ids)
        second = self.dropout(torch.tanh(self.inner(first)))
        return {"logits": self.out(second), "hidden": [first, second]}


def declared(batch: Any) -> dict[str, Tensor]:
    labelled = batch["labels"].ge(0)
    return {"inputs_mask": batch["attention_mask"], "logits_mask": labelled, "labels_mask": labelled}


def translate(batch: Any, outputs: dict[str, Any]) -> dict[str, Any]:
    return {**outputs, "labels": batch["labels"]}


ADAPTOR = FunctionAdaptor(translate, masks=declared, version="1")


def every_loss() -> list[Term]:
    torch.manual_seed(6)
    projections = [linear(WIDTH, 5).double() for _ in range(3)]
    return [Term("kd", SoftCrossEntropy(2.0)), Term("kl", ForwardKL(3.0)), Term("hard", HardLabels()),
            Term("hidden", HiddenMSE([H1], [H2], projections[0])), Term("cosine", Cosine([H2], [H1], projections[1])),
            Term("pkd", PKD([H2], [H2], projections[2])), Term("nst", NST([H1, H2], [H2, H1]))]


def plan_of(terms: list[Term], **student: Any) -> Distillation:
    return Distillation(Tagger(1, **student), ADAPTOR, LiveTeacher(Tagger(2, width=5), ADAPTOR), Objective(terms))


def batch_of(lengths: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Rows of the given lengths (0: a row of padding alone), padded; a third of the positions have no label."""
    generator, longest = torch.Generator().manual_seed(seed), max(*lengths, 1)
    mask = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).long()
    ids, labels = (torch.randint(0, n, mask.shape, generator=generator) for n in (12, 3))
    unlabelled = mask.eq(0) | torch.rand(mask.shape, generator=generator).lt(0.33)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels.masked_fill(unlabelled, -100)}


def step(plan: Distillation, batches: list[dict[str, Tensor]]) -> tuple[StepResult, Tensor]:
    """The result of one optimizer step's backward, and the gradient of everything trained."""
    bundle = Bundle(plan)
    bundle.zero_grad()
    result = accumulate_gradients(plan, bundle, bundle, [as_batch(batch) for batch in batches], Progress(0, 1), {},
                                  Precision().scaler(CPU))
    return result, torch.cat([parameter.grad.flatten() for parameter in bundle.parameters()])  # type: ignore


# The gradient


def test_the_gradient_is_that_of_finite_differences() -> None:
    plan, batches = plan_of(every_loss()), [batch_of([3, 1]), batch_of([2, 5, 4], seed=1)]
    _, gradient = step(plan, batches)
    parameters = list(Bundle(plan).parameters())
    direction = torch.randn(len(gradient), generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def loss_at(distance: float) -> float:
        moved = copy.deepcopy(plan.student), copy.deepcopy(plan.objective)
        elsewhere = Distillation(moved[0], ADAPTOR, plan.teacher, moved[1])
        with torch.no_grad():
            sizes = [parameter.numel() for parameter in parameters]
            for parameter, change in zip(Bundle(elsewhere).parameters(), direction.split(sizes), strict=True):
                parameter += distance * change.view_as(parameter)
        return float(step(elsewhere, batches)[0].loss)

    slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    assert abs(slope) > 1e-3
    assert float(gradient @ direction) == pytest.approx(slope, rel=1e-7)


def test_rows_of_padding_alone_count_for_nothing() -> None:
    rows = [batch_of([3, 1]), batch_of([2, 5, 4], seed=1)]
    with_empty_rows = {name: torch.cat([value, batch_of([0, 0, 0, 0])[name].expand(4, value.shape[1])])
                       for name, value in rows[0].items()}
    (wanted, gradient), (result, same) = step(plan_of(every_loss()), rows), step(plan_of(every_loss()),
                                                                                [with_empty_rows, rows[1]])
    torch.testing.assert_close(same, gradient, rtol=1e-12, atol=1e-14)
    assert {name: float(value) for name, value in result.parts.items()} == pytest.approx(
        {name: float(value) for name, value in wanted.parts.items()}, rel=1e-12)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_fully_masked_micro_batch_changes_nothing(place: int) -> None:
    rows = [batch_of([3, 1]), batch_of([2, 5, 4], seed=1)]
    _, gradient = step(plan_of(every_loss()), rows)
    _, same = step(plan_of(every_loss()), [*rows[:place], batch_of([0, 0]), *rows[place:]])
    torch.testing.assert_close(same, gradient, rtol=1e-12, atol=1e-14)


def test_a_step_over_nothing_has_a_loss_and_a_gradient_of_zero() -> None:
    result, gradient = step(plan_of(every_loss()), [batch_of([0, 0]), batch_of([0])])
    assert float(result.loss) == 0 and gradient.eq(0).all()
    assert all(float(value) == 0 for value in result.parts.values())


def test_soft_and_hard_labels_that_say_the_same_have_one_loss() -> None:
    """A teacher certain of the labels: equal masks and denominators, however the tokens fall into micro-batches."""
    def certain(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": 1e4 * nn.functional.one_hot(batch["labels"].clamp_min(0), 3).double()}

    teacher = LiveTeacher(Tagger(2), FunctionAdaptor(certain))
    plan = Distillation(Tagger(1), ADAPTOR, teacher, Objective([Term("kd", SoftCrossEntropy(1.0)),
                                                               Term("hard", HardLabels())]))
    parts = step(plan, [batch_of([3, 1]), batch_of([2, 5, 4], seed=1), batch_of([1], seed=5)])[0].parts
    assert float(parts["kd"]) == pytest.approx(float(parts["hard"]), rel=1e-12) and float(parts["hard"]) > 0.1


class Reads(TorchDispatchMode):
    """Counts the values read out of tensors, each of which would wait for an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return function(*args, **(kwargs or {}))


def test_no_value_is_read_for_each_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_base, "_keeps_all", lambda mask: False)  # masks are only looked at on a CPU
    numbers = []
    for size in (1, 6):
        plan = plan_of(every_loss())
        with Reads() as reads:
            step(plan, [batch_of([3, 1])] * size)
        numbers.append(reads.number)
    with Reads() as guard:
        float(torch.ones(()) + 1)
    assert guard.number == 1
    assert numbers[0] == numbers[1]


# Logits of minus infinity


@pytest.mark.parametrize("loss", [
    SoftCrossEntropy,
    ForwardKL,
])
def test_a_class_that_the_teacher_rules_out_is_only_another_logit(loss: type[LogitsLoss]) -> None:
    assert_same_without_the_class(loss, student_too=False)


@pytest.mark.parametrize("loss", [SoftCrossEntropy, ForwardKL])
def test_a_class_that_both_models_rule_out_is_as_good_as_absent(loss: type[LogitsLoss]) -> None:
    assert_same_without_the_class(loss, student_too=True)


def assert_same_without_the_class(loss: type[LogitsLoss], student_too: bool) -> None:
    """-inf gives what a very low, finite logit gives: exactly so, as its probability rounds to 0."""
    found = []
    for low in (-math.inf, -1e6):
        generator = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
        teacher[..., 1] = low
        if student_too:
            student[..., 1] = low
        student.requires_grad_()
        value = loss(2.0)({LOGITS: student}, {LOGITS: teacher}, {"logits": torch.ones(2, 3)})
        value.backward()
        found.append((value.detach(), student.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


# The teacher


def test_the_teacher_is_no_part_of_what_is_trained_or_saved() -> None:
    plan = plan_of(every_loss())
    bundle, teacher = Bundle(plan), plan.teacher.model  # type: ignore[attr-defined]
    assert {id(p) for p in teacher.parameters()}.isdisjoint(id(p) for p in bundle.parameters())
    assert teacher not in list(bundle.modules())
    names = {name.split(".")[0] for name in bundle.state_dict()}
    assert names == {"student", "objective"}
    assert sum(value.numel() for value in bundle.state_dict().values()) == sum(
        p.numel() for part in (plan.student, plan.objective) for p in part.parameters())


def test_training_leaves_the_teacher_as_it_was() -> None:
    model = Tagger(2, width=5, dropout=0.5).train()
    model.inner.eval()
    model.out.requires_grad_(False)
    weights, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    seen: list[tuple[bool, bool]] = []
    model.dropout.register_forward_hook(lambda module, args, out: seen.append((module.training, out.requires_grad)))
    plan = Distillation(Tagger(1), ADAPTOR, LiveTeacher(model, ADAPTOR), Objective(every_loss()))
    optimizer = torch.optim.AdamW([*Bundle(plan).parameters()], lr=0.1)
    fit(plan, LoaderSource([batch_of([3, 1]), batch_of([2])]), optimizer, FitOptions(num_epochs=2))
    assert seen == [(False, False)] * 4
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == flags


def test_teacher_and_cache_read_the_teacher_s_own_inputs() -> None:
    class Table(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            seen.append(input_ids.tolist())
            return input_ids.double()

    def side(*values: int) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([values])}

    seen: list[Any] = []
    adaptor = FunctionAdaptor(lambda batch, outputs: {"logits": outputs + batch["input_ids"]})
    cached = CachedTeacher(LiveTeacher(Table(), adaptor), MemoryStore())
    for student, teacher in ((side(1), side(5, 6)), (side(2), side(5, 6)), (side(1), side(7, 8))):
        answer = cached.signals(Batch(student, teacher), frozenset({LOGITS}))[LOGITS]
        assert answer.tolist() == (2.0 * teacher["input_ids"]).tolist()
    assert seen == [[[5, 6]], [[7, 8]]]


# Masks


def bert(seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
                        max_position_embeddings=16, num_labels=3, attn_implementation="eager")
    return BertForSequenceClassification(config).eval()


MODELS: dict[str, tuple[Callable[[int], nn.Module], Adaptor, list[Key]]] = {
    "hugging face": (bert, HuggingFaceAdaptor("rows"), [Key("hidden", 1), Key("hidden", 2)]),
    "module paths": (Tagger, ModulePathAdaptor(hidden=["embedding", "inner"]), [H1, H2]),
    "function": (Tagger, FunctionAdaptor(lambda batch, outputs: {
        **outputs, **({"inputs_mask": batch["attention_mask"], "logits_mask": batch["attention_mask"]}
                      if "attention_mask" in batch else {})}), [H1, H2]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_no_mask_is_as_good_as_a_mask_of_ones(kind: str) -> None:
    make, adaptor, keys = MODELS[kind]
    ids = torch.randint(0, 12, (3, 4), generator=torch.Generator().manual_seed(1))
    student, found = make(1), []
    for batch in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
        terms = [Term("kl", ForwardKL(2.0)), Term("hidden", HiddenMSE(keys[:1], keys[:1])),
                 Term("pkd", PKD(keys[1:], keys[1:])), Term("nst", NST(keys, keys))]
        plan = Distillation(student, adaptor, LiveTeacher(make(2), adaptor), Objective(terms))
        result, gradient = step(plan, [batch])
        found.append((gradient.clone(), {name: float(value) for name, value in result.parts.items()}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1]) and all(found[0][1].values())


@pytest.mark.parametrize("kind", ["rows"])
def test_a_row_without_tokens_has_no_logits_that_count(kind: Any) -> None:
    mask = torch.tensor([[1, 1], [0, 0]])
    assert HuggingFaceAdaptor(kind).masks({"input_ids": mask, "attention_mask": mask})["logits"].tolist() == [[1], [0]]
