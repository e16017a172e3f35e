"""Every teacher source keeps the promises of the interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from stillhouse.adaptors import FunctionAdaptor, HuggingFaceAdaptor, ModulePathAdaptor
from stillhouse.errors import OutputError, PlanError
from stillhouse.teachers import CachedTeacher, EnsembleTeacher, LiveTeacher, NoTeacher, RoutedTeacher, TeacherSource
from stillhouse.teachers.stores import LmdbStore, MemoryStore
from stillhouse.testing.teachers import TeacherSourceSuite
from stillhouse.types import ALL_LOGITS, LOGITS, Batch, Key

LAYERS = frozenset(Key("hidden", layer) for layer in range(3))
ATTENTION = frozenset({Key("attention", 1)})


def bert(seed: int = 0, kind: Any = BertForSequenceClassification, num_labels: int = 3) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
                        max_position_embeddings=16, num_labels=num_labels, attn_implementation="eager")
    model = kind(config)
    for parameter in model.parameters():  # the library's small initial weights would hide differences
        nn.init.normal_(parameter, std=0.5)
    return model


class Tagger(nn.Module):
    """Logits for each token and each row, from its own embedding and the mean of the row's; dropout in training."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(20, 6)
        self.mix = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(6, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embedded, weights = self.embedding(input_ids), attention_mask.unsqueeze(-1).float()
        mean = (embedded * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
        logits: Tensor = self.head(self.mix(torch.cat([embedded, mean.expand_as(embedded)], dim=-1)))
        return logits


def two_heads(batch: Any, outputs: Tensor) -> dict[str, Any]:
    return {"logits": [outputs, -2 * outputs[:, 0]], "hidden": [outputs, outputs.square()],
            "logits_mask": [batch["attention_mask"], batch["attention_mask"][:, :1]]}


class OfLiveTeacher(TeacherSourceSuite):
    def models_of(self, source: TeacherSource) -> Sequence[nn.Module]:
        assert isinstance(source, LiveTeacher)
        return [source.model]


class TestLiveBertOfRows(OfLiveTeacher):
    keys = LAYERS | ATTENTION | {LOGITS}
    impossible_keys = frozenset({Key("hidden", 3), Key("hidden", -4), Key("attention", 2), Key("attention", -3)})

    def make_source(self) -> TeacherSource:
        model = bert()
        return LiveTeacher(model, HuggingFaceAdaptor.for_model(model))


class TestLiveBertOfTokens(OfLiveTeacher):
    keys = LAYERS | {LOGITS}

    def make_source(self) -> TeacherSource:
        model = bert(kind=BertForTokenClassification)
        return LiveTeacher(model, HuggingFaceAdaptor.for_model(model))


class TestLiveTeacherWithAFunction(OfLiveTeacher):
    keys = frozenset({LOGITS, Key("logits", 1), Key("hidden", 0), Key("hidden", 1)})
    num_heads = 2
    impossible_keys = frozenset()

    def make_source(self) -> TeacherSource:
        return LiveTeacher(Tagger(), FunctionAdaptor(two_heads, version="1"))


class TestLiveTeacherWithAnUnnamedFunction(TestLiveTeacherWithAFunction):
    def make_source(self) -> TeacherSource:
        return LiveTeacher(Tagger(), FunctionAdaptor(two_heads))


class TestLiveTeacherByModulePath(OfLiveTeacher):
    keys = frozenset({LOGITS, Key("hidden", 0), Key("hidden", 1)})
    impossible_keys = frozenset({Key("hidden", 2), Key("logits", 1), Key("attention", 0)})

    def make_source(self) -> TeacherSource:
        return LiveTeacher(Tagger(), ModulePathAdaptor(hidden=["embedding", "mix"], version="1"))


class TestLiveTeacherUnderAutocast(OfLiveTeacher):
    tolerance = 5e-2

    def make_source(self) -> TeacherSource:
        model = bert()
        return LiveTeacher(model, HuggingFaceAdaptor("rows"), autocast_dtype=torch.bfloat16)


def trio(average: Any) -> EnsembleTeacher:
    members = [LiveTeacher(bert(seed), HuggingFaceAdaptor("rows")) for seed in range(3)]
    return EnsembleTeacher(members, [1.0, 2.0, 0.5], average)


def leaves_of(source: TeacherSource) -> list[TeacherSource]:
    found: list[TeacherSource] = []

    def keep(leaf: TeacherSource) -> TeacherSource:
        found.append(leaf)
        return leaf

    source.map_leaves(keep)
    return found


def live_models(leaves: Sequence[TeacherSource]) -> list[nn.Module]:
    inner = [leaf.inner if isinstance(leaf, CachedTeacher) else leaf for leaf in leaves]
    return [leaf.model for leaf in inner if isinstance(leaf, LiveTeacher)]


class OfLeaves(TeacherSourceSuite):
    def models_of(self, source: TeacherSource) -> Sequence[nn.Module]:
        return live_models(leaves_of(source))


class TestEnsembleOfLogits(OfLeaves):
    impossible_keys = frozenset({Key("hidden", 1), Key("attention", 0)})

    def make_source(self) -> TeacherSource:
        return trio("logits")


class TestEnsembleOfProbabilities(TestEnsembleOfLogits):
    def make_source(self) -> TeacherSource:
        return trio("probabilities")


class TestRoutedTeacher(OfLeaves):
    def make_source(self) -> TeacherSource:
        adaptor = HuggingFaceAdaptor("rows")
        return RoutedTeacher({"a": LiveTeacher(bert(0), adaptor), "b": LiveTeacher(bert(1, num_labels=5), adaptor)})

    def make_batches(self) -> list[Batch]:
        return [dataclasses.replace(b, task=task) for b, task in zip(super().make_batches(), "ab", strict=True)]


class TestCachedTeacherInMemory(OfLeaves):
    keys = LAYERS | ATTENTION | {LOGITS}

    def make_source(self) -> TeacherSource:
        return CachedTeacher(LiveTeacher(bert(), HuggingFaceAdaptor("rows")), MemoryStore())


class TestCachedTokensInMemory(TestLiveTeacherWithAFunction):
    def make_source(self) -> TeacherSource:
        return CachedTeacher(super().make_source(), MemoryStore())

    def models_of(self, source: TeacherSource) -> Sequence[nn.Module]:
        return live_models([source])


class TestCachedTeacherOnDisk(OfLeaves):
    keys = LAYERS | {LOGITS}

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    def make_source(self) -> TeacherSource:
        return CachedTeacher(LiveTeacher(bert(), HuggingFaceAdaptor("rows")), LmdbStore(self.tmp_path / "store"))


class TestCachedEnsemble(OfLeaves):
    impossible_keys = frozenset({Key("hidden", 1)})

    def make_source(self) -> TeacherSource:
        store = MemoryStore()
        return trio("probabilities").map_leaves(lambda leaf: CachedTeacher(leaf, store))


class TestCachedRoutedTeacher(TestRoutedTeacher):
    def make_source(self) -> TeacherSource:
        return CachedTeacher(super().make_source(), MemoryStore())

    def models_of(self, source: TeacherSource) -> Sequence[nn.Module]:
        assert isinstance(source, CachedTeacher)
        return live_models(leaves_of(source.inner))


# What one source promises beyond the interface


def batch_of(ids: list[list[int]], task: str = "default") -> Batch:
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), len(ids[0]), dtype=torch.long)}
    return Batch(inputs, inputs, task)


BATCH = batch_of([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_an_ensemble_is_the_weighted_average_of_its_members(average: Any) -> None:
    source = trio(average)
    members = [member.signals(BATCH, frozenset({LOGITS}))[LOGITS].double() for member in source.sources]
    answer = source.signals(BATCH, frozenset({LOGITS}))[LOGITS].double()
    for row in range(2):
        values = [m[row] if average == "logits" else m[row].exp() / m[row].exp().sum() for m in members]
        expected = (1.0 * values[0] + 2.0 * values[1] + 0.5 * values[2]) / 3.5
        found = answer[row] if average == "logits" else answer[row].exp()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_an_ensemble_of_half_precision_teachers_averages_in_full_precision() -> None:
    def constant(value: float) -> LiveTeacher:
        logits = torch.tensor([[value, -value]], dtype=torch.bfloat16)
        return LiveTeacher(nn.Identity(), FunctionAdaptor(lambda batch, outputs: {"logits": logits}))

    values = torch.tensor([7.03125, 7.09375, 7.15625], dtype=torch.float64)  # neighbours in bfloat16
    source = EnsembleTeacher([constant(value) for value in values.tolist()], [1.0, 1.0, 2.0])
    answer = source.signals(Batch(torch.zeros(1), torch.zeros(1)), frozenset({LOGITS}))[LOGITS]
    expected = (values * torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)).sum() / 4
    assert answer[0, 0].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_member_without_weight_says_nothing_not_even_minus_infinity(average: Any) -> None:
    def member(*logits: float) -> LiveTeacher:
        return LiveTeacher(nn.Identity(), FunctionAdaptor(lambda batch, outputs: {"logits": torch.tensor([logits])}))

    forbidding = member(-torch.inf, 1.0, 2.0)
    source = EnsembleTeacher([member(3.0, 1.0, 2.0), forbidding, member(1.0, 1.0, 4.0)], [1.0, 0.0, 1.0], average)
    without = EnsembleTeacher([member(3.0, 1.0, 2.0), member(1.0, 1.0, 4.0)], [1.0, 1.0], average)
    batch, keys = Batch(torch.zeros(1), torch.zeros(1)), frozenset({LOGITS})
    answer = source.signals(batch, keys)[LOGITS]
    assert answer.isfinite().all() and answer.equal(without.signals(batch, keys)[LOGITS])


def test_members_that_also_give_labels_can_be_averaged() -> None:
    def with_labels(batch: Any, outputs: Tensor) -> dict[str, Any]:
        return {"logits": outputs, "labels": batch["input_ids"]}

    def without(batch: Any, outputs: Tensor) -> dict[str, Any]:
        return {"logits": outputs}

    source = EnsembleTeacher([LiveTeacher(Tagger(0), FunctionAdaptor(with_labels)),
                              LiveTeacher(Tagger(1), FunctionAdaptor(without))])
    assert set(source.signals(BATCH, frozenset({ALL_LOGITS}))) == {LOGITS}


@pytest.mark.parametrize("chosen", [0, 2])
def test_layers_are_those_of_the_chosen_member(chosen: int) -> None:
    members = [LiveTeacher(bert(seed), HuggingFaceAdaptor("rows")) for seed in range(3)]
    source = EnsembleTeacher(members, [1.0, 2.0, 3.0], layers_from=chosen)
    keys = frozenset({LOGITS, Key("hidden", 1), Key("attention", 0)})
    answer = source.signals(BATCH, keys)
    assert set(answer) == keys
    own = members[chosen].signals(BATCH, keys)
    assert all(answer[key].equal(own[key]) for key in keys - {LOGITS})
    without = EnsembleTeacher(members, [1.0, 2.0, 3.0]).signals(BATCH, frozenset({LOGITS}))
    assert answer[LOGITS].equal(without[LOGITS]) and source.width(Key("hidden", 1)) == 8


def test_only_the_chosen_member_is_asked_for_layers_and_none_without_a_choice() -> None:
    live = LiveTeacher(bert(0), HuggingFaceAdaptor("rows"))
    silent = LiveTeacher(Tagger(), FunctionAdaptor(lambda batch, outputs: {"logits": outputs[:, 0, :3]}))
    keys = frozenset({LOGITS, Key("hidden", 1)})
    assert set(EnsembleTeacher([silent, live], layers_from=1).signals(BATCH, keys)) == keys
    EnsembleTeacher([live, live], layers_from=0).check(keys)
    with pytest.raises(PlanError, match=r"cannot give hidden\[1\]: .*layers_from=0, in MultiTeacherDistiller"):
        EnsembleTeacher([live, live]).check(keys)
    with pytest.raises(PlanError, match="hidden state 3 does not exist"):
        EnsembleTeacher([live, live], layers_from=1).check(frozenset({Key("hidden", 3)}))
    for number in (2, -1):
        with pytest.raises(PlanError, match=f"of teacher {number}, and there are 2: 0 to 1"):
            EnsembleTeacher([live, live], layers_from=number)


def test_whose_layers_are_given_is_part_of_an_ensembles_name() -> None:
    live = [LiveTeacher(bert(seed), HuggingFaceAdaptor("rows")) for seed in range(2)]
    sources = [EnsembleTeacher(live, layers_from=number) for number in (None, 0, 1)]
    assert len({source.fingerprint for source in sources}) == 3
    mapped = sources[2].map_leaves(lambda leaf: leaf)
    assert mapped.fingerprint == sources[2].fingerprint


def test_members_with_different_numbers_of_heads_are_refused() -> None:
    one = FunctionAdaptor(lambda batch, outputs: {"logits": outputs})
    source = EnsembleTeacher([LiveTeacher(Tagger(), one), LiveTeacher(Tagger(), FunctionAdaptor(two_heads))])
    with pytest.raises(OutputError, match="different numbers of logits heads"):
        source.signals(BATCH, frozenset({ALL_LOGITS}))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_impossible_ensemble_weights_are_refused(weights: list[float]) -> None:
    live = LiveTeacher(bert(), HuggingFaceAdaptor("rows"))
    with pytest.raises(PlanError, match="give 2 numbers"):
        EnsembleTeacher([live, live], weights)


def test_nothing_to_ask_is_refused() -> None:
    with pytest.raises(PlanError, match="at least one teacher"):
        EnsembleTeacher([])
    with pytest.raises(PlanError, match="at least one task"):
        RoutedTeacher({})


@pytest.mark.parametrize("cached", [False, True])
def test_a_task_without_a_teacher_is_refused(cached: bool) -> None:
    source: TeacherSource = RoutedTeacher({"a": LiveTeacher(bert(), HuggingFaceAdaptor("rows"))})
    source = CachedTeacher(source, MemoryStore()) if cached else source
    with pytest.raises(PlanError, match=r"no teacher for task 'b'.*for a"):
        source.for_task("b")
    with pytest.raises(PlanError, match="no teacher for task 'b'"):
        source.signals(batch_of([[1, 2]], task="b"), frozenset({LOGITS}))


@pytest.mark.parametrize("cached", [False, True])
def test_each_task_is_checked_against_its_own_teacher(cached: bool) -> None:
    adaptor = HuggingFaceAdaptor("rows")
    source: TeacherSource = RoutedTeacher({"a": LiveTeacher(bert(), adaptor), "b": trio("logits")})
    source = CachedTeacher(source, MemoryStore()) if cached else source
    source.for_task("a").check(frozenset({Key("hidden", 2)}))
    with pytest.raises(PlanError, match="an ensemble of teachers averages logits"):
        source.for_task("b").check(frozenset({Key("hidden", 2)}))
    assert source.for_task("a").width(Key("hidden", 2)) == 8


def test_rows_forwarded_counts_what_the_models_saw() -> None:
    source = trio("logits")
    source.signals(BATCH, frozenset({LOGITS}))
    assert source.rows_forwarded == 3 * 2
    routed = RoutedTeacher({"a": source, "b": NoTeacher()})
    routed.signals(batch_of([[1, 2]], task="a"), frozenset({LOGITS}))
    assert routed.rows_forwarded == 3 * 3


def test_ready_made_outputs_are_used_instead_of_a_forward() -> None:
    source = LiveTeacher(Tagger(), FunctionAdaptor(two_heads))
    outputs = torch.arange(24.0).reshape(2, 3, 4)
    answer = source.signals(dataclasses.replace(BATCH, teacher_outputs=outputs), frozenset({LOGITS}))
    assert answer[LOGITS].equal(outputs)
    assert source.rows_forwarded == 0


def test_ready_made_outputs_need_a_function_adaptor() -> None:
    source = LiveTeacher(bert(), HuggingFaceAdaptor("rows"))
    with pytest.raises(PlanError, match="need a function adaptor"):
        source.signals(dataclasses.replace(BATCH, teacher_outputs=torch.zeros(2, 3)), frozenset({LOGITS}))


def test_extra_arguments_reach_the_model() -> None:
    class Scaled(nn.Module):
        def forward(self, values: Tensor, scale: float = 1.0) -> Tensor:
            return values * scale

    source = LiveTeacher(Scaled(), FunctionAdaptor(lambda batch, outputs: {"logits": outputs}))
    batch = Batch((torch.ones(2, 3),), (torch.ones(2, 3),))
    assert source.signals(batch, frozenset({LOGITS}), {"scale": 3.0})[LOGITS].equal(torch.full((2, 3), 3.0))


def test_fingerprints_tell_adaptor_precision_and_configuration_apart() -> None:
    rows = HuggingFaceAdaptor("rows")
    changed = bert()
    changed.config.hidden_act = "relu"
    sources = [LiveTeacher(bert(), rows), LiveTeacher(bert(), HuggingFaceAdaptor("tokens")),
               LiveTeacher(bert(), rows, torch.bfloat16), LiveTeacher(bert().double(), rows),
               LiveTeacher(changed, rows),
               CachedTeacher(LiveTeacher(bert(), rows), MemoryStore(), torch.bfloat16)]
    assert len({source.fingerprint for source in sources}) == len(sources)


def test_no_teacher_answers_nothing_and_refuses_to_be_asked() -> None:
    assert NoTeacher().signals(BATCH, frozenset({LOGITS})) == {}
    NoTeacher().check(frozenset())
    with pytest.raises(PlanError, match=r"needs logits\[0\] of a teacher, and there is none"):
        NoTeacher().check(frozenset({LOGITS}))
