"""A cache answers as the teacher does, and runs it only for what is missing."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from stillhouse.adaptors import FunctionAdaptor, HuggingFaceAdaptor
from stillhouse.batches import as_batch
from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import AttentionCE
from stillhouse.teachers import CachedTeacher, LiveTeacher
from stillhouse.teachers.stores import LmdbStore, MemoryStore, SignalStore
from stillhouse.types import ALL_LOGITS, ATTENTION_SCORES, LOGITS, Batch, Key

BOTH = frozenset({LOGITS, Key("hidden", 0)})


class CountingModel(nn.Module):
    """Causal running means of embeddings over kept tokens, so that left padding changes nothing; counts its rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 6)
        self.head = nn.Linear(6, 3)
        self.rows = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Any = None, scale: float = 1.0) -> Any:
        self.rows += len(input_ids)
        kept = attention_mask.unsqueeze(-1).float()
        sums = (self.embedding(input_ids) * kept).cumsum(dim=1)
        hidden = sums / kept.cumsum(dim=1).clamp_min(1)
        return {"logits": self.head(hidden) * scale, "hidden": [hidden, hidden.square()]}


def tokens(batch: Any, outputs: Any) -> dict[str, Any]:
    return {"logits": outputs["logits"], "hidden": outputs["hidden"]}


def two_heads(batch: Any, outputs: Any) -> dict[str, Any]:
    return {"logits": [outputs["logits"], outputs["logits"][:, 0, :2]]}


def live(function: Any = tokens, version: str | None = "1") -> LiveTeacher:
    return LiveTeacher(CountingModel(), FunctionAdaptor(function, version=version))


ROWS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15], [16, 17, 18, 19], [20, 21]]


def batch_of(rows: Sequence[Sequence[int]], width: int = 0, left: bool = False, **more: Any) -> Batch:
    width = max(width, *map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    inputs = {"input_ids": ids, "attention_mask": mask, **more}
    return Batch(inputs, inputs)


def assert_same(found: Any, expected: Any, batch: Batch) -> None:
    """Equal tensors where the batch's mask keeps the position; 1e-5, since batch sizes change the order of sums."""
    kept = batch.teacher["attention_mask"].ne(0)
    assert set(found) == {key for key in expected if key in found} and found
    for key, value in found.items():
        assert value.shape == expected[key].shape
        over_positions = value.dim() == 3 and value.shape[1] == kept.shape[1]
        first, second = (value[kept], expected[key][kept]) if over_positions else (value, expected[key])
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5, msg=lambda text, k=key: f"{k}: {text}")


def written_by(cached: CachedTeacher, batch: Batch) -> list[tuple[bytes, bytes]]:
    """The records that a cache writes when asked about a batch."""
    written: list[tuple[bytes, bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        put_many = cached.store.put_many
        patch.setattr(cached.store, "put_many", lambda items: (written.extend(items), put_many(items)))
        cached.signals(batch, BOTH)
    return written


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SignalStore:
    return MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / "store")


def test_shuffled_reads_equal_the_live_teacher(store: SignalStore) -> None:
    cached, reference = CachedTeacher(live(), store), live()
    for epoch in range(3):
        order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(epoch)).tolist()
        for start in range(0, len(ROWS), 4):
            batch = batch_of([ROWS[i] for i in order[start : start + 4]])
            assert_same(cached.signals(batch, BOTH), reference.signals(batch, BOTH), batch)
    assert cached.rows_forwarded == len(ROWS)


def test_shuffled_reads_equal_a_live_bert() -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, num_labels=3, attn_implementation="eager"))
    keys = frozenset({LOGITS, Key("hidden", 0), Key("hidden", 2)})
    reference = LiveTeacher(model, HuggingFaceAdaptor("rows"))
    cached = CachedTeacher(LiveTeacher(model, HuggingFaceAdaptor("rows")), MemoryStore())
    for rows, left in (([0, 1, 2], False), ([2, 4, 0], False), ([5, 3, 1, 4], False), ([5, 4, 2], True)):
        batch = batch_of([ROWS[i] for i in rows], left=left)
        assert_same(cached.signals(batch, keys), reference.signals(batch, keys), batch)


def test_other_batch_sizes_and_other_padding_hit(store: SignalStore) -> None:
    cached, reference = CachedTeacher(live(), store), live()
    cached.signals(batch_of(ROWS), BOTH)
    for batch in (batch_of(ROWS[:1]), batch_of(ROWS[1:4], width=9), batch_of(ROWS, width=12), batch_of(ROWS[3:])):
        assert_same(cached.signals(batch, BOTH), reference.signals(batch, BOTH), batch)
    assert cached.rows_forwarded == len(ROWS)


@pytest.mark.parametrize("left", [False, True])
def test_padding_of_a_cached_answer_is_zero(left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 7, dtype))  # what may have stood there before
    cached = CachedTeacher(live(), MemoryStore())
    for _ in range(2):
        batch = batch_of(ROWS, width=7, left=left)
        answer = cached.signals(batch, BOTH)
        for value in answer.values():
            assert value[batch.teacher["attention_mask"].eq(0)].eq(0).all()


def test_left_padding_equals_the_live_teacher(store: SignalStore) -> None:
    cached, reference = CachedTeacher(live(), store), live()
    for batch in (batch_of(ROWS, left=True), batch_of(ROWS[::-1], left=True), batch_of(ROWS[:2], 9, left=True)):
        assert_same(cached.signals(batch, BOTH), reference.signals(batch, BOTH), batch)


def test_the_same_left_padding_hits() -> None:
    cached = CachedTeacher(live(), MemoryStore())
    cached.signals(batch_of(ROWS, 6, left=True), BOTH)
    cached.signals(batch_of(ROWS[2:5], 6, left=True), BOTH)
    assert cached.rows_forwarded == len(ROWS)


def test_a_layer_added_later_is_all_that_is_computed() -> None:
    asked: list[frozenset[Key]] = []

    class Recording(FunctionAdaptor):
        def run(self, model: nn.Module, inputs: Any, keys: frozenset[Key], extra: Any) -> Any:
            asked.append(keys)
            return super().run(model, inputs, keys, extra)

    cached = CachedTeacher(LiveTeacher(CountingModel(), Recording(tokens, version="1")), MemoryStore())
    batch, later = batch_of(ROWS), BOTH | {Key("hidden", 1)}
    cached.signals(batch, BOTH)
    size = len(cached.store)
    answer = cached.signals(batch, later)
    assert asked == [BOTH, frozenset({Key("hidden", 1)})]
    assert len(cached.store) == size == len(ROWS)
    assert_same(answer, live().signals(batch, later), batch)
    cached.signals(batch, later)
    cached.signals(batch, BOTH)
    assert len(asked) == 2


def test_what_is_kept_of_a_row_stays_when_something_else_is_added() -> None:
    cached, batch = CachedTeacher(live(), MemoryStore()), batch_of(ROWS)
    for keys in (frozenset({LOGITS}), frozenset({Key("hidden", 0)}), frozenset({Key("hidden", 1)})):
        cached.signals(batch, keys)
    assert cached.rows_forwarded == 3 * len(ROWS)
    assert_same(cached.signals(batch, BOTH | {Key("hidden", 1)}),
                live().signals(batch, BOTH | {Key("hidden", 1)}), batch)
    assert cached.rows_forwarded == 3 * len(ROWS)


def test_only_missing_rows_are_forwarded() -> None:
    cached, reference = CachedTeacher(live(), MemoryStore()), live()
    cached.signals(batch_of(ROWS[:2]), BOTH)
    batch = batch_of(ROWS[:4])
    assert_same(cached.signals(batch, BOTH), reference.signals(batch, BOTH), batch)
    model = cached.inner.model  # type: ignore[attr-defined]
    assert (cached.rows_forwarded, model.rows) == (4, 4)


def test_rows_that_lack_different_keys_are_completed() -> None:
    cached, reference = CachedTeacher(live(), MemoryStore()), live()
    cached.signals(batch_of(ROWS[:1]), frozenset({LOGITS}))
    cached.signals(batch_of(ROWS[1:2]), frozenset({Key("hidden", 0)}))
    batch = batch_of(ROWS[:3])
    assert_same(cached.signals(batch, BOTH), reference.signals(batch, BOTH), batch)


def test_only_what_is_missing_is_written() -> None:
    cached = CachedTeacher(live(), MemoryStore())
    cached.signals(batch_of(ROWS[:1]), frozenset({LOGITS}))
    cached.signals(batch_of(ROWS[1:2]), frozenset({Key("hidden", 0)}))
    assert len(written_by(cached, batch_of(ROWS[:4]))) == 4
    assert len(written_by(cached, batch_of(ROWS[2:5]))) == 1
    assert written_by(cached, batch_of(ROWS[:3])) == []


def test_duplicate_rows_are_stored_once() -> None:
    cached, reference = CachedTeacher(live(), MemoryStore()), live()
    batch = batch_of([ROWS[0], ROWS[1], ROWS[0], ROWS[0]])
    for _ in range(2):
        assert_same(cached.signals(batch, BOTH), reference.signals(batch, BOTH), batch)
    assert len(cached.store) == 2


@pytest.mark.parametrize("damage", [lambda record: record[:-3], lambda record: record[:-1] + b"\x7f", lambda _: b""])
def test_a_damaged_record_is_computed_again_with_a_warning(store: SignalStore, damage: Any) -> None:
    batch = batch_of(ROWS[:2])
    seen = dict(written_by(CachedTeacher(live(), MemoryStore()), batch))
    cached = CachedTeacher(live(), store)
    cached.signals(batch, BOTH)
    key = sorted(seen)[1]
    store.put_many([(key, damage(seen[key]))])
    with pytest.warns(UserWarning, match="a damaged record of the teacher cache is computed again"):
        answer = cached.signals(batch, BOTH)
    assert_same(answer, live().signals(batch, BOTH), batch)
    assert cached.rows_forwarded == 3
    assert store.get_many([key]) == [seen[key]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_first_epoch_sees_the_rounded_values_too(store: SignalStore, dtype: torch.dtype) -> None:
    cached, batch = CachedTeacher(live(), store, dtype), batch_of(ROWS)
    first, later = cached.signals(batch, BOTH), cached.signals(batch, BOTH)
    exact = live().signals(batch, BOTH)
    assert cached.rows_forwarded == len(ROWS)
    for key in BOTH:
        assert first[key].dtype == later[key].dtype == dtype
        assert first[key].equal(later[key])
        kept = batch.teacher["attention_mask"].ne(0)
        bound = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
        torch.testing.assert_close(first[key][kept].float(), exact[key][kept], rtol=bound, atol=1e-6)


def test_each_dtype_has_records_of_its_own() -> None:
    store, batch = MemoryStore(), batch_of(ROWS)
    CachedTeacher(live(), store, torch.bfloat16).signals(batch, BOTH)
    answer = CachedTeacher(live(), store).signals(batch, BOTH)
    assert all(value.dtype == torch.float32 for value in answer.values())
    assert_same(answer, live().signals(batch, BOTH), batch)


def test_batches_that_cannot_be_cut_are_kept_whole_with_one_warning(store: SignalStore) -> None:
    cached = CachedTeacher(live(lambda batch, outputs: {"logits": outputs["logits"] + batch["shift"]}), store)
    keys = frozenset({LOGITS})
    batch, other = (batch_of(rows, shift=torch.tensor(2.0)) for rows in (ROWS[:3], ROWS[:2]))
    cached.inner.model.forward = lambda input_ids, attention_mask, shift: CountingModel.forward(  # type: ignore
        cached.inner.model, input_ids, attention_mask)  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="whole batches are cached"):
        first = cached.signals(batch, keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, third = cached.signals(batch, keys), cached.signals(other, keys)
    expected = CountingModel()(batch.teacher["input_ids"], batch.teacher["attention_mask"])["logits"] + 2.0
    torch.testing.assert_close(first[LOGITS], expected.detach())
    assert again[LOGITS].equal(first[LOGITS]) and third[LOGITS].shape[0] == 2
    assert cached.inner.model.rows == 3 + 2  # type: ignore[attr-defined]


def test_values_without_content_are_refused() -> None:
    batch = batch_of(ROWS[:2], strange=object())
    cached = CachedTeacher(live(), MemoryStore())
    with pytest.warns(UserWarning, match="whole batches"), pytest.raises(PlanError, match="object among the teacher's"):
        cached.signals(batch, BOTH)


def test_batches_of_tuples_are_cached_by_row() -> None:
    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": outputs["logits"]}

    cached, reference = CachedTeacher(live(adaptor), MemoryStore()), live(adaptor)
    whole = tuple(batch_of(ROWS).teacher.values())
    for rows in ([0, 1, 2], [2, 0], [1, 3, 4, 5], [5, 4, 3, 2, 1, 0]):
        part = tuple(tensor[rows] for tensor in whole)
        found, expected = (s.signals(Batch(part, part), frozenset({LOGITS}))[LOGITS] for s in (cached, reference))
        torch.testing.assert_close(found, expected)
    assert cached.rows_forwarded == len(ROWS)


def test_labels_do_not_change_the_key() -> None:
    cached = CachedTeacher(live(), MemoryStore())
    for labels in (torch.tensor([0, 1]), torch.tensor([2, -100]), torch.zeros(2, 3, dtype=torch.long)):
        cached.signals(batch_of(ROWS[:2], labels=labels), BOTH)
    cached.signals(batch_of(ROWS[:2]), BOTH)
    assert cached.rows_forwarded == 2


def test_tokens_masks_and_other_inputs_do_change_the_key() -> None:
    cached = CachedTeacher(live(), MemoryStore())
    batch = batch_of(ROWS[:1])
    holed = {**batch.teacher, "attention_mask": torch.tensor([[1, 0, 1]])}
    for number, inputs in enumerate((batch.teacher, holed, batch_of([[5, 6, 8]]).teacher, batch_of([[5, 6]]).teacher)):
        cached.signals(Batch(inputs, inputs), BOTH)
        assert cached.rows_forwarded == number + 1


def test_extra_arguments_and_tasks_change_the_key() -> None:
    cached, batch = CachedTeacher(live(), MemoryStore()), batch_of(ROWS[:2])
    plain = cached.signals(batch, BOTH)
    scaled = cached.signals(batch, BOTH, {"scale": 2.0})
    torch.testing.assert_close(scaled[LOGITS], 2 * plain[LOGITS])
    assert cached.rows_forwarded == 4
    cached.signals(batch, BOTH, {"scale": 2.0})
    assert cached.rows_forwarded == 4
    cached.signals(dataclasses.replace(batch, task="other"), BOTH)
    assert cached.rows_forwarded == 6


def test_a_changed_teacher_or_adaptor_version_misses() -> None:
    store, batch = MemoryStore(), batch_of(ROWS[:2])
    CachedTeacher(live(), store).signals(batch, BOTH)
    same, versioned, changed = live(), live(version="2"), live()
    with torch.no_grad():
        changed.model.head.bias += 1  # type: ignore[operator,union-attr]
    for source, rows in ((same, 0), (versioned, 2), (changed, 2)):
        answer = CachedTeacher(source, store).signals(batch, BOTH)
        assert source.rows_forwarded == rows
        assert_same(answer, source.signals(batch, BOTH), batch)


def test_unversioned_adaptors_share_nothing_in_one_store() -> None:
    store, batch = MemoryStore(), batch_of(ROWS[:2])
    CachedTeacher(live(version=None), store).signals(batch, BOTH)
    other = CachedTeacher(live(version=None), store)
    other.signals(batch, BOTH)
    assert other.rows_forwarded == 2


def test_an_unversioned_function_adaptor_cannot_be_cached_on_disk(tmp_path: Path) -> None:
    cached = CachedTeacher(live(version=None), LmdbStore(tmp_path))
    with pytest.raises(PlanError, match=r"give the adaptor a version, as in FunctionAdaptor\(f, version='1'\)"):
        cached.check(BOTH)
    CachedTeacher(live(version=None), MemoryStore()).check(BOTH)
    CachedTeacher(live(), LmdbStore(tmp_path)).check(BOTH)


def test_every_logits_head_is_kept_and_found_again_after_reopening(tmp_path: Path) -> None:
    batch, wanted = batch_of(ROWS), frozenset({ALL_LOGITS})
    expected = live(two_heads).signals(batch, wanted)
    with LmdbStore(tmp_path) as store:
        cached = CachedTeacher(live(two_heads), store)
        assert_same(cached.signals(batch, wanted), expected, batch)
    with LmdbStore(tmp_path) as store:
        cached = CachedTeacher(live(two_heads), store)
        answer = cached.signals(batch, wanted)
        assert set(answer) == {LOGITS, Key("logits", 1)} and answer[Key("logits", 1)].shape == (len(ROWS), 2)
        assert_same(answer, expected, batch)
        assert cached.rows_forwarded == 0


def test_a_tensor_the_teacher_never_gives_is_left_to_the_objective_as_without_a_cache() -> None:
    cached = CachedTeacher(live(lambda batch, outputs: {"hidden": outputs["hidden"]}), MemoryStore())
    for _ in range(2):
        assert set(cached.signals(batch_of(ROWS), BOTH)) == {Key("hidden", 0)}


@pytest.mark.parametrize("shape", [(5, 4, 3), (6, 4, 3)])
def test_outputs_that_do_not_follow_the_rows_are_refused(shape: tuple[int, ...]) -> None:
    cached = CachedTeacher(live(lambda batch, outputs: {"logits": torch.zeros(shape)}), MemoryStore())
    with pytest.raises(OutputError, match=r"start with 6 rows and cover 5 positions; switch the cache off"):
        cached.signals(batch_of(ROWS), frozenset({LOGITS}))
    assert len(cached.store) == 0


def test_ready_made_outputs_pass_the_cache_by() -> None:
    cached = CachedTeacher(live(), MemoryStore())
    outputs = CountingModel()(**batch_of(ROWS).teacher)
    answer = cached.signals(dataclasses.replace(batch_of(ROWS), teacher_outputs=outputs), BOTH)
    assert answer[LOGITS].equal(outputs["logits"])
    assert len(cached.store) == 0 and cached.rows_forwarded == 0


def test_a_side_input_as_wide_as_the_padding_is_part_of_the_key() -> None:
    """Features of a row are not positions, even where there are as many of them."""
    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": batch["features"]}

    cached = CachedTeacher(live(adaptor), MemoryStore())
    cached.inner.model.forward = lambda **inputs: None  # type: ignore
    for last in (1.0, 2.0):
        features = torch.tensor([[0.0, 0.0, last], [0.0, 0.0, last]])
        answer = cached.signals(batch_of([[5], [6, 7, 8]], features=features), frozenset({LOGITS}))
        assert answer[LOGITS].equal(features)


def test_values_over_positions_that_padding_changes_are_refused_with_the_remedy() -> None:
    def one_value_a_position(batch: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": outputs["logits"][..., 0]}

    cached = CachedTeacher(live(one_value_a_position), MemoryStore())
    cached.signals(batch_of([[5, 6]]), frozenset({LOGITS}))
    with pytest.raises(OutputError, match="switch the cache off, or pad every batch to one length"):
        cached.signals(batch_of([[5, 6], [7, 8, 9]]), frozenset({LOGITS}))


def test_padding_comes_back_as_scores_that_no_softmax_sees() -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        attn_implementation="eager")).eval()
    key, mask = Key(ATTENTION_SCORES, 0), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = as_batch({"input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), "attention_mask": mask})
    live = LiveTeacher(model, HuggingFaceAdaptor("rows"))
    cached = CachedTeacher(live, MemoryStore())
    student = {key: torch.randn(2, 2, 4, 4).masked_fill(mask[:, None, None].eq(0), -1e4)}
    values = [AttentionCE([key], [key])(student, source.signals(batch, frozenset({key})), {"inputs": mask}).item()
              for source in (live, cached, cached)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)
