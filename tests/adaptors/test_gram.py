"""Similarities of positions stand in for the hidden states that they are made of, to the same loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from stillhouse.adaptors import GramOutputs, HuggingFaceAdaptor, StoppingEarly, gram_key
from stillhouse.errors import PlanError
from stillhouse.losses import NST
from stillhouse.teachers import CachedTeacher, LiveTeacher
from stillhouse.teachers.stores import LmdbStore, MemoryStore
from stillhouse.types import ALL_LOGITS, LOGITS, Batch, Key

LAYERS = [Key("hidden", 1), Key("hidden", 2)]
GRAM = gram_key(LAYERS)


def live() -> LiveTeacher:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=3,
                                                     num_attention_heads=2, intermediate_size=8)).eval()
    return LiveTeacher(model, GramOutputs(StoppingEarly(HuggingFaceAdaptor("rows"))))


def batch_of(rows: list[list[int]], width: int) -> Batch:
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long()}
    return Batch(inputs, inputs)


def nst(keys: list[Key], batch: Batch, teacher: dict[Key, Tensor], student: dict[Key, Tensor]) -> Tensor:
    return NST(LAYERS, keys)(student, teacher, {"inputs": batch.student["attention_mask"]})


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_nst_has_the_same_value_and_gradient(dtype: torch.dtype | None) -> None:
    teacher, batch = live(), batch_of([[5, 6, 7, 8], [9, 10]], 6)
    teacher.autocast_dtype = dtype
    answers = dict(teacher.signals(batch, frozenset({GRAM, *LAYERS})))
    assert answers[GRAM].dtype == torch.float32 and answers[GRAM].shape == (2, 6, 6)
    student = {key: torch.randn(2, 6, 4, requires_grad=True) for key in LAYERS}
    answers[GRAM][1, 2:], answers[GRAM][1, :, 2:] = torch.nan, torch.nan  # padding
    values = [nst(keys, batch, answers, student) for keys in (LAYERS, [GRAM, GRAM])]
    torch.testing.assert_close(values[1], values[0])
    gradients = [torch.autograd.grad(value, list(student.values())) for value in values]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_every_head_of_logits_comes_beside_them() -> None:
    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2,
                                                num_attention_heads=2, intermediate_size=8)).eval()
    teacher = CachedTeacher(LiveTeacher(model, GramOutputs(HuggingFaceAdaptor("spans"))), MemoryStore())
    for _ in range(2):
        found = teacher.signals(batch_of([[5, 6, 7], [8, 9]], 3), frozenset({GRAM, ALL_LOGITS}))
        assert set(found) == {GRAM, LOGITS, Key("logits", 1)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_similarities_too_large_for_half_precision_are_kept(dtype: torch.dtype) -> None:
    teacher = live()
    with torch.no_grad():
        teacher.model.bert.embeddings.LayerNorm.weight[0] = 9000.0  # type: ignore[union-attr, operator, index]
    keys = frozenset({gram_key([Key("hidden", 0)] * 2)})
    cached = CachedTeacher(teacher, MemoryStore(), dtype)
    for _ in range(2):
        (found,) = cached.signals(batch_of([[5, 6, 7]], 3), keys).values()
        assert found.isfinite().all() and found.max() > 65_504


def test_only_what_is_asked_for_comes_back() -> None:
    teacher, batch = live(), batch_of([[5, 6, 7]], 3)
    assert set(teacher.signals(batch, frozenset({GRAM}))) == {GRAM}
    assert set(teacher.signals(batch, frozenset({GRAM, LOGITS}))) == {GRAM, LOGITS}
    assert {LOGITS, LAYERS[0]} <= set(teacher.signals(batch, frozenset({LOGITS, LAYERS[0]})))


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_cache_keeps_the_similarities_alone_and_gives_them_with_any_padding(on_disk: bool, tmp_path: object) -> None:
    teacher = live()
    store = LmdbStore(str(tmp_path)) if on_disk else MemoryStore()
    cached, keys = CachedTeacher(teacher, store), frozenset({GRAM, LOGITS})
    cached.signals(batch_of([[5, 6, 7, 8], [9, 10]], 4), keys)
    wide = batch_of([[9, 10], [5, 6, 7, 8]], 7)
    found, expected = cached.signals(wide, keys), teacher.signals(wide, keys)
    kept = wide.teacher["attention_mask"].ne(0)
    pairs = kept[:, :, None] & kept[:, None, :]
    torch.testing.assert_close(found[GRAM][pairs], expected[GRAM][pairs])
    assert found[GRAM][~pairs].eq(0).all() and cached.rows_forwarded == 4


def test_layers_that_do_not_exist_are_refused_before_any_forward() -> None:
    with pytest.raises(PlanError, match="hidden state 4 does not exist"):
        live().check(frozenset({gram_key([Key("hidden", 4)] * 2)}))
