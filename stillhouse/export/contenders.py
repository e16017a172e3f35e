"""Who is timed: the teacher in torch, the student in torch, and what was exported of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillhouse.errors import PlanError, StillhouseError, first_line
from stillhouse.export.folders import size_of
from stillhouse.export.graphs import Asked
from stillhouse.export.rows import ComparedRows
from stillhouse.export.sessions import OnnxModel
from stillhouse.export.timing import Answer, Contender
from stillhouse.finished import FinishedRun
from stillhouse.model_size import size_bytes
from stillhouse.modes import evaluation
from stillhouse.recipe.teacher_loading import load_teaching
from stillhouse.tasks import EncodedSplit, Task
from stillhouse.training.precision import has_fast_bf16

_CPU = torch.device("cpu")


@contextmanager
def contenders(run: FinishedRun, student: nn.Module, graphs: Mapping[str, tuple[OnnxModel, Path]],
               compared: ComparedRows) -> Iterator[tuple[list[Contender], str]]:
    """All that can be timed, and why the teacher cannot be, if it cannot; in eval mode and without gradients inside.

    Args:
        run: whose recipe names the teacher.
        student: on the CPU.
        graphs: by what they are called.
        compared: the rows.
    """
    teachers, rows, note = _teachers(run, compared)
    with evaluation(student, *teachers), torch.no_grad():
        found = _in_torch("teacher", teachers, compared.task, rows) if teachers else []
        found += _in_torch("student", [student], compared.task, compared.encoded)
        found += [Contender("student", name, graph.of, compared.encoded, size_of(path))
                  for name, (graph, path) in graphs.items()]
        yield found, note


def _teachers(run: FinishedRun, compared: ComparedRows) -> tuple[list[nn.Module], EncodedSplit, str]:
    """The models that teach together, and the rows as they read them; none, and why."""
    if not compared.has_data or compared.examples is None:
        return [], compared.encoded, "the teacher was not timed, since it cannot be found without the run's data"
    try:
        assert run.recipe is not None  # the data is its
        teaching = load_teaching(run.recipe.teacher, compared.task, {}, _CPU)
        if teaching.tokenizer is None:
            return [], compared.encoded, "the teacher was not timed, since it is no model"
        if not teaching.is_trained:
            raise PlanError("the fine-tuned teacher is not in the cache any more")
        return ([member.model for member in teaching.members],
                compared.task.encoded(compared.examples, teaching.tokenizer), "")
    except StillhouseError as error:
        return [], compared.encoded, f"the teacher was not timed: {first_line(error)}"


def _in_torch(name: str, models: Sequence[nn.Module], task: Task[Any], rows: EncodedSplit) -> list[Contender]:
    """In float32, and in bf16 where that is done in hardware."""
    batch = rows.batch([0])
    asked = [Asked(model, task, batch) for model in models]
    size = sum(map(size_bytes, models))
    found = [Contender(name, "torch fp32", _answer(asked, None), rows, size)]
    if has_fast_bf16(_CPU):
        found.append(Contender(name, "torch bf16", _answer(asked, torch.bfloat16), rows, size))
    return found


def _answer(asked: Sequence[Asked], dtype: torch.dtype | None) -> Answer:
    def answer(batch: Mapping[str, Any]) -> object:
        with torch.autocast(_CPU.type, dtype, enabled=dtype is not None):
            return [one.of(batch) for one in asked]

    return answer
