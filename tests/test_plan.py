"""A plan that cannot work fails when it is made: before any forward, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertPreTrainedModel

from stillhouse.adaptors import FunctionAdaptor, HuggingFaceAdaptor, ModulePathAdaptor
from stillhouse.errors import PlanError, UsageError
from stillhouse.losses import NST, ForwardKL, FunctionLoss, HardLabels, HiddenMSE, Loss
from stillhouse.needs import Needs
from stillhouse.objective import Objective, TaskObjective, Term
from stillhouse.plan import Distillation
from stillhouse.projections import linear
from stillhouse.schedules import Constant
from stillhouse.teachers import CachedTeacher, EnsembleTeacher, LiveTeacher, NoTeacher, RoutedTeacher, TeacherSource
from stillhouse.teachers.stores import LmdbStore, MemoryStore
from stillhouse.types import LABELS, LOGITS, Key

ROWS = HuggingFaceAdaptor("rows")


@pytest.fixture(autouse=True)
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plan of these tests may run a model."""
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a plan ran a model")

    monkeypatch.setattr(BertPreTrainedModel, "__call__", refuse)


def bert(layers: int = 4, width: int = 8, labels: int = 3, attention: str = "eager") -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(
        vocab_size=20, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, num_labels=labels, attn_implementation=attention))


def live(**settings: Any) -> LiveTeacher:
    return LiveTeacher(bert(**settings), ROWS)


def match(teacher: int, student: int, projection: nn.Module | None = None) -> HiddenMSE:
    return HiddenMSE([Key("hidden", student)], [Key("hidden", teacher)], projection)


def attention(layer: int) -> FunctionLoss:
    key = Key("attention", layer)
    return FunctionLoss(lambda student, teacher, mask: (student - teacher).square().mean(), [key], [key])


def plan(*losses: Loss, teacher: TeacherSource | None = None, student: Any = None) -> Distillation:
    objective = Objective([Term(f"term {number}", loss) for number, loss in enumerate(losses)])
    return Distillation(student or bert(layers=2), ROWS, teacher or live(), objective)


def test_a_plan_that_can_work_is_made() -> None:
    similarity = NST([Key("hidden", 2)] * 2, [Key("hidden", 4)] * 2)
    made = plan(ForwardKL(8.0), match(4, 2), similarity, attention(1), HardLabels())
    assert made.declares_masks
    assert made.needs() == {"default": Needs.of(
        [LOGITS, Key("hidden", 2), Key("attention", 1), LABELS], [LOGITS, Key("hidden", 4), Key("attention", 1)])}


def ensemble() -> EnsembleTeacher:
    return EnsembleTeacher([live(), live()])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: plan(ForwardKL(), match(4, 2), teacher=ensemble()),
     r"averages logits and cannot give hidden\[4\].*say whose layers to take"),
    (lambda: plan(ForwardKL(), teacher=NoTeacher()),
     r"needs logits\[0\] of a teacher, and there is none; give a teacher, or train with hard labels alone"),
    (lambda: plan(match(5, 2)), r"hidden state 5 does not exist: BertForSequenceClassification has 4 layers"),
    (lambda: plan(match(4, 3)), r"hidden state 3 does not exist: BertForSequenceClassification has 2 layers"),
    (lambda: plan(ForwardKL(), teacher=live(labels=5)),
     r"student predicts 3 labels, the teacher 5; both models must predict the same classes in the same order"),
    (lambda: plan(ForwardKL(), teacher=EnsembleTeacher([live(), live(labels=5)])),
     r"teachers of an ensemble predict different numbers of labels: \[3, 5\]"),
    (lambda: plan(ForwardKL(), student=bert(labels=4), teacher=ensemble()), "student predicts 4 labels, the teacher 3"),
    (lambda: plan(match(4, 2), teacher=live(width=12)), r"needs a projection: in a config.*proj: \[linear, 8, 12\]"),
    (lambda: plan(match(4, 2, linear(6, 12)), teacher=live(width=12)), "expects a student width of 6, but .* is 8"),
    (lambda: plan(match(4, 2, linear(8, 10)), teacher=live(width=12)), r"proj: \[linear, 10, 12\]"),
    (lambda: plan(attention(1), teacher=live(attention="sdpa")), "uses the 'sdpa'.*attn_implementation='eager'"),
    (lambda: plan(attention(1), student=bert(layers=2, attention="sdpa")), "uses the 'sdpa' implementation"),
    (lambda: plan(attention(2)), r"attention map 2 does not exist.*2 layers, so maps 0 to 1"),
    (lambda: plan(FunctionLoss(max, [Key("hidden", 1)], [Key("hidden", 9)])), "hidden state 9 does not exist"),
], ids=["hidden of an ensemble", "no teacher", "teacher layer", "student layer", "labels", "labels in an ensemble",
        "labels of an ensemble", "widths", "projection in", "projection out", "teacher attention", "student attention",
        "attention layer", "layer of a function"])
def test_a_plan_that_cannot_work_is_refused_with_the_remedy(make: Callable[[], Distillation], message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        make()
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize("wrap", [lambda source: source, lambda source: CachedTeacher(source, MemoryStore()),
                                  lambda source: source.map_leaves(lambda leaf: CachedTeacher(leaf, MemoryStore()))])
def test_a_cache_hides_nothing_from_the_check(wrap: Callable[[TeacherSource], TeacherSource]) -> None:
    with pytest.raises(PlanError, match="averages logits"):
        plan(match(4, 2), teacher=wrap(ensemble()))
    with pytest.raises(PlanError, match="does not exist"):
        plan(match(5, 2), teacher=wrap(live()))
    with pytest.raises(PlanError, match="3 labels, the teacher 5"):
        plan(ForwardKL(), teacher=wrap(live(labels=5)))


def test_an_unnamed_function_cannot_be_cached_on_disk(tmp_path: Any) -> None:
    teacher = LiveTeacher(bert(), FunctionAdaptor(lambda batch, outputs: {"logits": outputs.logits}))
    with pytest.raises(PlanError, match="give the adaptor a version"):
        plan(ForwardKL(), teacher=CachedTeacher(teacher, LmdbStore(tmp_path)))


def test_hard_labels_need_no_teacher() -> None:
    assert plan(HardLabels(), teacher=NoTeacher()).needs()["default"].teacher == frozenset()


def test_a_term_that_is_never_on_is_not_checked() -> None:
    objective = Objective([Term("kd", ForwardKL()), Term("off", match(9, 9), weight=Constant(0.0))])
    Distillation(bert(), ROWS, live(), objective)


def test_a_watched_term_is_checked() -> None:
    objective = Objective([Term("kd", ForwardKL()), Term("watched", match(9, 2), weight=Constant(0.0), monitored=True)])
    with pytest.raises(PlanError, match="hidden state 9 does not exist"):
        Distillation(bert(), ROWS, live(), objective)


def test_what_only_outputs_can_tell_waits_for_them() -> None:
    function = FunctionAdaptor(lambda batch, outputs: {})
    made = Distillation(nn.Linear(1, 1), function, LiveTeacher(nn.Linear(1, 1), function),
                        Objective([Term("kd", ForwardKL()), Term("match", match(99, 98))]))
    assert not made.declares_masks


def test_module_paths_are_checked_on_both_sides() -> None:
    good, bad = ModulePathAdaptor(["bert.embeddings"]), ModulePathAdaptor(["bert.embedings"])
    objective = Objective([Term("match", match(0, 0))])
    Distillation(bert(), good, LiveTeacher(bert(), good), objective)
    for student, teacher in ((good, bad), (bad, good)):
        with pytest.raises(PlanError, match=r"no module 'bert.embedings'; did you mean 'bert.embeddings'"):
            Distillation(bert(), student, LiveTeacher(bert(), teacher), objective)


def test_each_task_is_checked_against_its_own_adaptor_teacher_and_objective() -> None:
    def tasks(teachers: dict[str, TeacherSource], adaptors: Any = ROWS) -> Distillation:
        objective = TaskObjective({"a": Objective([Term("kd", ForwardKL()), Term("match", match(4, 2))]),
                                   "b": Objective([Term("kd", ForwardKL())])})
        return Distillation(bert(), adaptors, RoutedTeacher(teachers), objective)

    made = tasks({"a": live(), "b": ensemble()})
    assert set(made.needs()) == {"a", "b"} and made.declares_masks
    with pytest.raises(PlanError, match="averages logits"):
        tasks({"a": ensemble(), "b": live()})
    with pytest.raises(PlanError, match="3 labels, the teacher 5"):
        tasks({"a": live(), "b": live(labels=5)})
    with pytest.raises(PlanError, match="no teacher for task 'b'"):
        tasks({"a": live()})
    with pytest.raises(PlanError, match="no student adaptor for task 'b'; there are a"):
        tasks({"a": live(), "b": live()}, {"a": ROWS})
    mixed = tasks({"a": live(), "b": live()}, {"a": ROWS, "b": FunctionAdaptor(lambda batch, outputs: {})})
    assert not mixed.declares_masks
