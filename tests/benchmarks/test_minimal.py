"""The minimal loop does what our run does: the same batches, the same loss, the same gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.contenders import minimal
from benchmarks.contenders.ours import recipe_values
from benchmarks.setting import QUICK, Job, made_up_rows
from stillhouse.batches import as_batch
from stillhouse.recipe import Recipe
from stillhouse.recipe.prepare import Prepared, prepare
from stillhouse.training.bundle import Bundle
from stillhouse.training.step import measure
from stillhouse.types import Progress


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job(tmp_path, QUICK, warmup_steps=1, turn_steps=2, num_turns=2)
    job.write(made_up_rows(job.num_rows + 8), made_up=True)
    return job


@pytest.fixture
def prepared(job: Job) -> Prepared:
    return prepare(Recipe.from_dict(recipe_values(job, "live")))


def our_batches(job: Job, prepared: Prepared) -> list[dict[str, torch.Tensor]]:
    return list(prepared.task.loader(prepared.distilling.reading.train, batch_size=job.setting.batch_size,
                                     seed=job.seed, shuffle=True))


def test_it_reads_the_batches_that_our_run_reads(job: Job, prepared: Prepared) -> None:
    ours = our_batches(job, prepared)
    tokens = minimal.encoded(job)
    theirs = list(minimal._batches(tokens, minimal._order(tokens, job)))
    assert len(ours) == len(theirs) == job.num_steps
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("input_ids", "attention_mask"):
            torch.testing.assert_close(mine[name], other[name])


def test_its_loss_and_gradient_are_those_of_our_run(job: Job, prepared: Prepared) -> None:
    plan = prepared.distilling.plan
    student = minimal.Student(prepared.student, job.setting)
    terms = plan.objective.for_task("default").terms
    for i, (teacher_layer, student_layer) in enumerate(job.setting.pairs):
        linear = terms[f"hidden_mse {teacher_layer}-{student_layer}"].loss.projection.linear
        student.projections[i].load_state_dict(linear.state_dict())
    student.eval()
    teacher = prepared.teaching.members[0].model
    batch = our_batches(job, prepared)[0]
    assert bool(batch["attention_mask"].eq(0).any()), "a batch without padding shows too little"

    loss, parts = measure(plan, Bundle(plan), as_batch(batch), Progress(0, job.num_steps, 0), {})
    ours = gradients(loss, prepared.student)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        theirs = teacher(**inputs, output_hidden_states=True)
    other = minimal.distillation_loss(student, student(**inputs), theirs, batch["attention_mask"], job.setting)

    assert len(parts) == 1 + 2 * len(job.setting.pairs)
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours, gradients(other, prepared.student), rtol=1e-3, atol=1e-5)


def gradients(loss: torch.Tensor, model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
