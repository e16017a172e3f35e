"""The objective: which terms run, what they need, and the one division."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import FunctionLoss, HardLabels, HiddenMSE, LogitMSE, UserLosses
from stillhouse.needs import Needs
from stillhouse.objective import Objective, Part, TaskObjective, Term
from stillhouse.projections import linear
from stillhouse.schedules import Constant, Linear
from stillhouse.types import ALL_LOGITS, LABELS, LOGITS, USER_LOSSES, Key, Over, Progress, Unit

START, HALF, END = Progress(0, 4), Progress(2, 4), Progress(4, 4)
H1, H2, SECOND = Key("hidden", 1), Key("hidden", 2), Key("logits", 1)
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
TOKENS = Over(Unit.TOKEN, "logits")


def tensors() -> tuple[dict[Key, Tensor], dict[Key, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    student = {LOGITS: tensor(2, 3, 4), H1: tensor(2, 3, 5), SECOND: tensor(2, 3, 6)}
    teacher = {LOGITS: tensor(2, 3, 4), H2: tensor(2, 3, 5), SECOND: tensor(2, 3, 6)}
    return {key: value.requires_grad_() for key, value in student.items()}, teacher


def squared(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The mean squared distance of kept positions, by a loop."""
    kept = [(b, i) for b in range(mask.shape[0]) for i in range(mask.shape[1]) if mask[b, i]]
    return torch.stack([(student[b, i] - teacher[b, i]).square().mean() for b, i in kept]).mean()


def kd(name: str = "kd", **settings: Any) -> Term:
    return Term(name, LogitMSE(), **settings)


def hidden(name: str = "hidden", **settings: Any) -> Term:
    return Term(name, HiddenMSE([H1], [H2]), **settings)


MASKS = {"logits": MASK, "inputs": MASK, "logits.1": 1 - MASK}


# What is needed


def test_needs_are_the_union_of_what_may_ever_be_on() -> None:
    objective = Objective([kd(), hidden(weight=Linear(1.0, 0.0))])
    assert objective.needs() == Needs.of([LOGITS, H1], [LOGITS, H2])
    assert objective.needs(HALF) == objective.needs()
    assert objective.needs(END) == Needs.of([LOGITS], [LOGITS])


def test_a_term_of_weight_zero_needs_nothing_unless_it_is_watched() -> None:
    assert Objective([kd(), hidden(weight=Constant(0))]).needs() == Needs.of([LOGITS], [LOGITS])
    watched = Objective([kd(), hidden(weight=Constant(0), monitored=True)])
    assert watched.needs() == watched.needs(START) == Needs.of([LOGITS, H1], [LOGITS, H2])


def test_a_term_for_all_heads_needs_all_heads_and_nothing_else_changes() -> None:
    objective = Objective([kd(all_heads=True), Term("labels", HardLabels(), all_heads=True)])
    assert objective.needs() == Needs.of([ALL_LOGITS, LABELS], [ALL_LOGITS])


def test_an_objective_says_whether_it_trains() -> None:
    objective = Objective([kd(weight=Linear(1.0, 0.0)), hidden(monitored=True)])
    assert objective.trains(START) and not objective.trains(END)


@pytest.mark.parametrize("terms", [[], [kd("a"), kd("a")]])
def test_names_of_terms_must_differ_and_there_must_be_one(terms: list[Term]) -> None:
    with pytest.raises(PlanError, match="at least one term, each with a name of its own"):
        Objective(iter(terms))


def test_projections_are_parameters_of_the_objective() -> None:
    objective = Objective([kd(), Term("match.1", HiddenMSE([H1], [H2], linear(5, 5)))])
    assert [name for name, _ in objective.named_parameters()] == [
        "losses.match/1.projection.linear.weight", "losses.match/1.projection.linear.bias"]


def test_names_may_differ_by_a_dot_alone() -> None:
    assert list(Objective([kd("a.b"), hidden("a_b")]).terms) == ["a.b", "a_b"]


# Sums


def test_sums_are_those_of_the_losses_that_are_on() -> None:
    student, teacher = tensors()
    objective = Objective([kd(), hidden(weight=Linear(1.0, 0.0))])
    sums = objective(student, teacher, MASKS, START)
    assert set(sums) == {Part("kd", 0), Part("hidden", 0)}
    torch.testing.assert_close(sums[Part("kd", 0)], 3 * squared(student[LOGITS], teacher[LOGITS], MASK))
    assert set(objective(student, teacher, MASKS, END)) == {Part("kd", 0)}


def test_a_term_that_is_off_is_not_computed() -> None:
    def refuse(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("computed although its weight is 0")

    student, teacher = tensors()
    off = Term("off", FunctionLoss(refuse, [Key("hidden", 9)], [Key("hidden", 9)]), weight=Constant(0.0))
    assert set(Objective([kd(), off])(student, teacher, MASKS, START)) == {Part("kd", 0)}


def test_every_head_has_its_own_sum_mask_and_denominator() -> None:
    student, teacher = tensors()
    objective = Objective([kd(all_heads=True)])
    sums = objective(student, teacher, MASKS, START)
    assert set(sums) == {Part("kd", 0), Part("kd", 1)}
    counts = objective.counts(MASKS)
    assert {over: n.item() for over, n in counts.items()} == {TOKENS: 3, Over(Unit.TOKEN, "logits.1"): 3}
    total, means = objective.combine(sums, counts, START)
    expected = squared(student[LOGITS], teacher[LOGITS], MASK) + squared(student[SECOND], teacher[SECOND], 1 - MASK)
    assert total is not None
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(means["kd"], expected.detach())


def test_only_a_term_for_all_heads_looks_at_the_other_heads() -> None:
    student, teacher = tensors()
    assert set(Objective([kd()])(student, teacher, MASKS, START)) == {Part("kd", 0)}
    assert set(Objective([kd()]).counts(MASKS)) == {TOKENS}


def test_different_numbers_of_heads_are_refused() -> None:
    student, teacher = tensors()
    del teacher[SECOND]
    with pytest.raises(OutputError, match="the student gives 2 logits heads, the teacher 1"):
        Objective([kd(all_heads=True)])(student, teacher, MASKS, START)


def test_a_watched_term_has_no_graph_and_no_share() -> None:
    student, teacher = tensors()
    objective = Objective([kd(), hidden(weight=Constant(7.0), monitored=True)])
    sums = objective(student, teacher, MASKS, START)
    assert sums[Part("kd", 0)].requires_grad and not sums[Part("hidden", 0)].requires_grad
    total, means = objective.combine(sums, objective.counts(MASKS), START)
    assert total is not None
    torch.testing.assert_close(total, squared(student[LOGITS], teacher[LOGITS], MASK))
    torch.testing.assert_close(means["hidden"], squared(student[H1], teacher[H2], MASK).detach())


def test_nothing_that_is_on_has_no_total() -> None:
    student, teacher = tensors()
    objective = Objective([kd(weight=Constant(0.0)), hidden(monitored=True)])
    total, means = objective.combine(objective(student, teacher, MASKS, START), objective.counts(MASKS), START)
    assert total is None and set(means) == {"hidden"}


# What is missing


def test_missing_tensors_are_named_with_their_side() -> None:
    student, teacher = tensors()
    del student[H1], teacher[H2]
    with pytest.raises(OutputError, match=r"loss 'hidden' needs the student's hidden\[1\], the teacher's hidden\[2\]"):
        Objective([kd(), hidden()])(student, teacher, MASKS, START)


@pytest.mark.parametrize("side", [0, 1])
def test_an_optional_term_is_left_out_where_a_side_lacks_its_tensors(side: int) -> None:
    sides = tensors()
    del sides[side][LOGITS], sides[0][SECOND], sides[1][SECOND]
    objective = Objective([kd(all_heads=True, optional=True), hidden()])
    with pytest.warns(UserWarning, match=r"'kd' has a weight but is left out: the .* logits\[0\] was not given"):
        assert set(objective(*sides, MASKS, START)) == {Part("hidden", 0)}


@pytest.mark.parametrize(("term", "masks", "missing"), [
    (kd(), {"inputs": MASK}, "logits"), (hidden(), {"logits": MASK}, "inputs"),
    (kd(all_heads=True), {"logits": MASK}, r"logits\.1"),
])
def test_a_mask_that_was_not_declared_is_named_with_the_remedy(term: Term, masks: Any, missing: str) -> None:
    student, teacher = tensors()
    with pytest.raises(OutputError, match=rf"tokens kept by the {missing} mask needs that mask.*give it in masks="):
        Objective([term])(student, teacher, masks, START)


# The division


def test_the_total_is_the_weighted_sum_of_means() -> None:
    student, teacher = tensors()
    objective = Objective([kd(weight=Constant(0.5)), hidden(weight=Linear(2.0, 0.0))])
    total, means = objective.combine(objective(student, teacher, MASKS, HALF), objective.counts(MASKS), HALF)
    first, second = squared(student[LOGITS], teacher[LOGITS], MASK), squared(student[H1], teacher[H2], MASK)
    assert total is not None
    torch.testing.assert_close(total, 0.5 * first + 1.0 * second)
    torch.testing.assert_close(means["kd"], first.detach())
    torch.testing.assert_close(means["hidden"], second.detach())


def test_sums_and_counts_of_parts_give_the_mean_of_the_whole() -> None:
    student, teacher = tensors()
    objective = Objective([kd()])
    parts = [({LOGITS: student[LOGITS][[b]]}, {LOGITS: teacher[LOGITS][[b]]}, {"logits": MASK[[b]]}) for b in range(2)]
    counts = {TOKENS: sum(objective.counts(masks)[TOKENS] for _, _, masks in parts)}
    totals = [objective.combine(objective(s, t, masks, START), counts, START)[0] for s, t, masks in parts]
    torch.testing.assert_close(sum(totals), squared(student[LOGITS], teacher[LOGITS], MASK))


def test_the_mean_over_a_single_unit_is_its_value() -> None:
    student, teacher = tensors()
    mask = torch.tensor([[0, 1, 0], [0, 0, 0]])
    objective = Objective([kd()])
    total, _ = objective.combine(objective(student, teacher, {"logits": mask}, START),
                                 objective.counts({"logits": mask}), START)
    torch.testing.assert_close(total, squared(student[LOGITS], teacher[LOGITS], mask))


def test_over_nothing_the_mean_is_zero_with_a_graph() -> None:
    student, teacher = tensors()
    objective = Objective([kd(), hidden()])
    empty = {"logits": torch.zeros_like(MASK), "inputs": torch.zeros_like(MASK)}
    total, _ = objective.combine(objective(student, teacher, empty, START), objective.counts(empty), START)
    assert total is not None and total.item() == 0
    total.backward()
    assert student[LOGITS].grad is not None and student[LOGITS].grad.eq(0).all()


def test_counts_are_of_every_denominator_that_the_masks_cover() -> None:
    objective = Objective([kd(), hidden(), Term("labels", HardLabels()), Term("own", UserLosses())])
    masks = {"logits": MASK, "inputs": torch.ones(2, 3), "labels": torch.tensor([[1], [0]])}
    counts = objective.counts(masks)
    assert {str(over): n.item() for over, n in counts.items()} == {
        "tokens kept by the logits mask": 3, "tokens kept by the inputs mask": 6, "rows kept by the inputs mask": 2,
        "tokens kept by the labels mask": 1}
    assert Over(Unit.TOKEN, "losses") in objective.overs()


def test_labels_of_a_further_head_are_divided_by_the_rows_that_have_labels() -> None:
    objective = Objective([Term("labels", HardLabels(), all_heads=True)])
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, -100, 4])
    student = {LOGITS: logits, SECOND: logits.flip(0), LABELS: labels, Key("labels", 1): labels}
    masks = {"logits": torch.ones(3, 1), "logits.1": torch.ones(3, 1), "labels": labels.ge(0).unsqueeze(1)}
    _, means = objective.combine(objective(student, {}, masks, START), objective.counts(masks), START)
    wanted = [torch.nn.functional.cross_entropy(each, labels) for each in (logits, logits.flip(0))]
    torch.testing.assert_close(means["labels"], sum(wanted))


def test_a_user_s_own_mean_comes_out_as_it_went_in() -> None:
    objective = Objective([Term("own", UserLosses())])
    masks = {"losses": torch.tensor([[1, 0], [1, 1]])}
    sums = objective({USER_LOSSES: torch.tensor(0.7, requires_grad=True)}, {}, masks, START)
    total, means = objective.combine(sums, objective.counts(masks), START)
    assert total is not None and total.item() == means["own"].item() == pytest.approx(0.7)


# Several tasks


@pytest.mark.parametrize("name", ["sst-2.en", "keys", "type"])
def test_a_task_may_have_any_name(name: str) -> None:
    objective = Objective([kd()])
    both = TaskObjective({name: objective, "other": objective})
    assert both.for_task(name) is objective and [task for task, _ in both.tasks()] == [name, "other"]


def test_tasks_have_objectives_of_their_own() -> None:
    ner, pos = Objective([kd()]), Objective([hidden()])
    both = TaskObjective({"ner": ner, "pos": pos})
    assert both.for_task("ner") is ner and both.for_task("pos") is pos
    assert both.tasks() == (("ner", ner), ("pos", pos))
    assert ner.tasks() == (("default", ner),) and ner.for_task("any") is ner
    assert isinstance(both, nn.Module)
    with pytest.raises(PlanError, match="no objective for task 'qa'; there are ner, pos"):
        both.for_task("qa")
