"""The trained student does not depend on what the teacher's cache held before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stillhouse.adaptors import FunctionAdaptor
from stillhouse.batches import as_batch
from stillhouse.losses import HiddenMSE, SoftCrossEntropy
from stillhouse.objective import Objective, Term
from stillhouse.plan import Distillation
from stillhouse.projections import linear
from stillhouse.teachers import CachedTeacher, LiveTeacher, TeacherSource
from stillhouse.teachers.stores import MemoryStore
from stillhouse.training import Bundle, FitOptions, LoaderSource, PrefetchSource, fit
from stillhouse.training.saving import EverySteps
from stillhouse.types import LOGITS, Key

HIDDEN = Key("hidden", 0)
BOTH = frozenset({LOGITS, HIDDEN})
ROWS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15], [16, 17, 18, 19], [20, 21], [22, 23, 1], [2, 3]]


class ExactTeacher(nn.Module):
    """Weights in sixteenths: every sum is exact, so an answer has the same bits in any batch and any padding."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.embedding, self.out = (nn.Parameter(torch.randint(-40, 41, shape, generator=generator) / 16)
                                    for shape in ((24, 8), (8, 3)))
        self.rows = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        self.rows += len(input_ids)
        hidden = self.embedding[input_ids]
        return {"logits": hidden @ self.out, "hidden": [hidden @ self.out @ self.out.mT / 256]}


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.dropout, self.out = nn.Embedding(24, 5), nn.Dropout(0.3), nn.Linear(5, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        hidden = self.dropout(self.embedding(input_ids))
        return {"logits": self.out(hidden), "hidden": [hidden]}


def masks(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"logits_mask": batch["attention_mask"], "inputs_mask": batch["attention_mask"]}


ADAPTOR = FunctionAdaptor(lambda batch, outputs: dict(outputs), masks=masks, version="1")


def collate(rows: list[list[int]], width: int = 0) -> dict[str, Tensor]:
    width = max(width, *map(len, rows))
    return {"input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])}


def student_of(teacher: TeacherSource) -> Tensor:
    """The trained weights after two shuffled epochs with dropout and accumulation, projections included."""
    torch.manual_seed(1)
    objective = Objective([Term("kd", SoftCrossEntropy(4.0)),
                           Term("hidden", HiddenMSE([HIDDEN], [HIDDEN], linear(5, 8)))])
    plan = Distillation(Student(), ADAPTOR, teacher, objective)
    loader: Any = DataLoader(ROWS, batch_size=3, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(Bundle(plan).parameters(), lr=0.05)
    torch.manual_seed(2)
    fit(plan, LoaderSource(loader), optimizer, FitOptions(num_epochs=2, accumulation=2, max_grad_norm=1.0))
    return torch.cat([p.detach().flatten() for p in Bundle(plan).parameters()])


def nothing(cached: CachedTeacher) -> None:
    pass


def half_of_the_rows(cached: CachedTeacher) -> None:
    for row in ROWS[::2]:
        cached.signals(as_batch(collate([row], width=7)), BOTH)


def half_of_the_keys(cached: CachedTeacher) -> None:
    cached.signals(as_batch(collate(ROWS[:5])), frozenset({LOGITS}))
    cached.signals(as_batch(collate(ROWS[3:])), frozenset({HIDDEN}))


def everything(cached: CachedTeacher) -> None:
    cached.signals(as_batch(collate(ROWS[::-1], width=9)), BOTH)


def an_earlier_run(cached: CachedTeacher) -> None:
    student_of(cached)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("fill", "forwards"), [
    (nothing, 8), (half_of_the_rows, 4), (half_of_the_keys, 6), (everything, 0), (an_earlier_run, 0),
])
def test_a_run_does_not_depend_on_what_was_cached_before(
    fill: Callable[[CachedTeacher], None], forwards: int, dtype: torch.dtype | None
) -> None:
    wanted = student_of(CachedTeacher(LiveTeacher(ExactTeacher(), ADAPTOR), MemoryStore(), dtype))
    model, store = ExactTeacher(), MemoryStore()
    fill(CachedTeacher(LiveTeacher(model, ADAPTOR), store, dtype))
    model.rows = 0
    assert torch.equal(student_of(CachedTeacher(LiveTeacher(model, ADAPTOR), store, dtype)), wanted)
    assert model.rows == forwards


def test_an_unrounded_cache_trains_the_student_of_the_live_teacher_and_a_rounded_one_another() -> None:
    live = student_of(LiveTeacher(ExactTeacher(), ADAPTOR))
    exact, rounded = (student_of(CachedTeacher(LiveTeacher(ExactTeacher(), ADAPTOR), MemoryStore(), dtype))
                      for dtype in (None, torch.bfloat16))
    assert torch.equal(exact, live)
    assert not torch.equal(rounded, live)
    torch.testing.assert_close(rounded, live, rtol=0.0, atol=0.05)


def test_answers_that_came_with_a_batch_are_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = CachedTeacher(LiveTeacher(ExactTeacher(), ADAPTOR), MemoryStore())
    keys = frozenset({LOGITS})
    asked: list[int] = []
    signals = cached.signals
    monkeypatch.setattr(cached, "signals", lambda batch, *rest: (asked.append(1), signals(batch, *rest))[1])
    plan = Distillation(Student(), ADAPTOR, cached, Objective([Term("kd", SoftCrossEntropy(4.0))]))
    loader: Any = DataLoader(ROWS, batch_size=4, collate_fn=collate)  # type: ignore[arg-type]
    source = PrefetchSource(LoaderSource(loader), lambda batch: cached.lookup(batch, keys))
    fit(plan, source, torch.optim.SGD(plan.student.parameters(), lr=0.1), FitOptions(num_epochs=3))
    assert len(asked) == 2, "the first epoch's batches alone"


def test_answers_are_kept_before_each_checkpoint_and_at_the_end_of_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seen = MemoryStore(), list[tuple[int, int]]()
    monkeypatch.setattr(store, "flush", lambda: seen.append((len(store), len(list(tmp_path.glob("gs*"))))))
    plan = Distillation(Student(), ADAPTOR, CachedTeacher(LiveTeacher(ExactTeacher(), ADAPTOR), store),
                        Objective([Term("kd", SoftCrossEntropy(4.0))]))
    loader: Any = DataLoader(ROWS, batch_size=4, collate_fn=collate)  # type: ignore[arg-type]
    fit(plan, LoaderSource(loader), torch.optim.SGD(plan.student.parameters(), lr=0.1),
        FitOptions(num_epochs=2, output_dir=tmp_path, save=EverySteps(1)))
    # One line a call: rows answered, and checkpoints there already. A step saves; the end of an epoch flushes too.
    assert seen == [(4, 0), (8, 1), (8, 2), (8, 2), (8, 3), (8, 4)]
