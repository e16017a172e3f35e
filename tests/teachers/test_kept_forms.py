"""One byte a value: how wrong it may be, and what it is not used for."""

from __future__ import annotations

import pytest
import torch

from stillhouse.adaptors import FunctionAdaptor
from stillhouse.teachers import CachedTeacher, LiveTeacher
from stillhouse.teachers.kept_forms import kept_form, restored
from stillhouse.teachers.stores import LmdbStore, MemoryStore
from stillhouse.types import LOGITS, Batch, Key

HIDDEN, MAP = Key("hidden", 0), Key("attention", 0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_within_half_a_step_of_the_largest_value(scale: float, dtype: torch.dtype) -> None:
    values = (torch.randn(4, 7, 96, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)
    values[0, 0] = 0
    parts = kept_form(HIDDEN, values, torch.int8, has_features=True)
    assert [(part.dtype, part.shape[-1]) for part in parts] == [(torch.int8, 96), (torch.float32, 1)]
    found = restored(*parts)
    bound = values.float().abs().amax(dim=-1, keepdim=True) / 127 / 2
    assert ((found - values.float()).abs() <= bound * 1.001).all()
    assert found[0, 0].eq(0).all()


def test_the_largest_value_of_each_vector_is_kept_exactly_enough() -> None:
    values = torch.tensor([[3.0, -1.0, 0.5], [0.0, -7.0, 2.0]])
    found = restored(*kept_form(HIDDEN, values, torch.int8, has_features=True))
    torch.testing.assert_close(found[[0, 1], [0, 1]], torch.tensor([3.0, -7.0]))


def test_a_vector_that_is_not_finite_stays_so() -> None:
    values = torch.tensor([[1.0, torch.nan], [1.0, 2.0]])
    found = restored(*kept_form(HIDDEN, values, torch.int8, has_features=True))
    assert found[0].isnan().all() and found[1].isfinite().all()


def test_what_has_no_features_is_kept_in_half_precision_and_whole_numbers_as_they_are() -> None:
    assert [p.dtype for p in kept_form(LOGITS, torch.randn(2, 3), torch.int8, has_features=False)] == [torch.float16]
    assert [p.dtype for p in kept_form(HIDDEN, torch.arange(3), torch.int8, has_features=True)] == [torch.int64]


def everything(batch: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> dict[str, object]:
    return {"logits": outputs["logits"], "hidden": [outputs["hidden"]], "attention": [outputs["maps"]]}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 32)
        self.rows = 0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        self.rows += len(input_ids)
        hidden = self.table(input_ids)
        kept = attention_mask[:, None, None, :].ne(0)
        maps = (hidden @ hidden.transpose(1, 2)).unsqueeze(1).masked_fill(~kept, -1e4).softmax(dim=-1)
        return {"logits": hidden[:, 0, :3], "hidden": hidden, "maps": maps}


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_cache_of_bytes_answers_the_same_twice_and_nearly_as_the_teacher(on_disk: bool, tmp_path: object) -> None:
    torch.manual_seed(0)
    teacher = LiveTeacher(Model(), FunctionAdaptor(everything, version="1"))
    cached = CachedTeacher(teacher, LmdbStore(str(tmp_path)) if on_disk else MemoryStore(), torch.int8)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long()}
    batch, keys = Batch(inputs, inputs), frozenset({LOGITS, HIDDEN, MAP})
    first, again, exact = cached.signals(batch, keys), cached.signals(batch, keys), teacher.signals(batch, keys)
    assert cached.rows_forwarded == 4 and cached.inner.model.rows == 4  # type: ignore[attr-defined]
    assert all(first[key].equal(again[key]) for key in keys)
    kept = inputs["attention_mask"].ne(0)
    assert first[HIDDEN].dtype == torch.float32 and first[MAP].dtype == first[LOGITS].dtype == torch.float16
    bound = exact[HIDDEN].abs().amax(dim=-1, keepdim=True) / 127 / 2
    assert ((first[HIDDEN] - exact[HIDDEN]).abs() <= bound * 1.001)[kept].all()
    assert first[HIDDEN][~kept].eq(0).all()
    torch.testing.assert_close(first[LOGITS].float(), exact[LOGITS], atol=1e-3, rtol=1e-3)


def test_looking_up_runs_no_model() -> None:
    teacher = LiveTeacher(Model(), FunctionAdaptor(everything, version="1"))
    cached, keys = CachedTeacher(teacher, MemoryStore()), frozenset({LOGITS, HIDDEN})
    ids = torch.tensor([[5, 6], [7, 8]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = Batch(inputs, inputs)
    assert cached.lookup(batch, keys) is None and teacher.lookup(batch, keys) is None
    said = cached.signals(batch, keys)
    found = cached.lookup(batch, keys)
    assert found is not None and all(found[key].equal(said[key]) for key in keys)
    assert cached.lookup(batch, keys | {MAP}) is None
    assert cached.rows_forwarded == 2
