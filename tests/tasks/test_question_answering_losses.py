"""Promises of the losses of question answering: only what may be an answer counts, whatever stands beside a row."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.adaptors import Signals
from stillhouse.losses import ForwardKL, HardLabels, LogitMSE
from stillhouse.objective import Objective, Part, Term
from stillhouse.tasks import EncodedSplit, Examples, QuestionAnswering, QuestionAnsweringData
from stillhouse.types import ALL_LOGITS, LABELS, LOGITS, Key, Progress

END = Key("logits", 1)
START = Progress(0, 1)


@pytest.fixture
def task(write: Callable[..., str]) -> QuestionAnswering:
    """Questions about contexts of 5 to 50 letters, the answer the second and third of them."""
    draw, found = random.Random(0), []
    for _ in range(20):
        question, context = (" ".join(draw.choices("abcdefghij", k=draw.randint(*size))) for size in ((1, 6), (5, 50)))
        gold = {"text": [context[2:5]], "answer_start": [2]}
        found.append({"question": question, "context": context, "answers": gold})
    train = write("train.jsonl", *found)
    task = QuestionAnswering(QuestionAnsweringData.of(train=train, validation=train, max_length=24, stride=6,
                                                      max_question_length=6))
    task.load()
    return task


class Given(nn.Module):
    """A model that gives the logits it was made with."""

    def __init__(self, start: Tensor, end: Tensor) -> None:
        super().__init__()
        self.start, self.end = nn.Parameter(start), nn.Parameter(end)

    def forward(self, input_ids: Tensor, return_dict: bool = True) -> dict[str, Tensor]:
        length = input_ids.shape[1]
        return {"start_logits": self.start[:, :length], "end_logits": self.end[:, :length]}


def signals(task: QuestionAnswering, model: nn.Module, batch: dict[str, Any]) -> Signals:
    return task.adaptor().run(model, batch, frozenset({ALL_LOGITS, LOGITS, END, LABELS}), {})


def drawn(num_rows: int, seed: int) -> Given:
    torch.manual_seed(seed)
    return Given(*(torch.randn(num_rows, 32, dtype=torch.float64) for _ in range(2)))


def losses() -> Objective:
    return Objective([Term("kl", ForwardKL(2.0), all_heads=True), Term("mse", LogitMSE(), all_heads=True),
                      Term("hard", HardLabels(), all_heads=True)])


def some_rows(encoded: EncodedSplit) -> list[int]:
    """Three rows of different lengths, the longest last."""
    found = {int(length): row for row, length in enumerate(encoded.lengths)}
    lengths = sorted(found)
    return [found[lengths[0]], found[lengths[len(lengths) // 2]], found[lengths[-1]]]


def test_no_probability_is_left_outside_context_and_class_token(
    task: QuestionAnswering, encoder: str
) -> None:
    tokenizer = task.load_tokenizer(encoder)
    encoded = task.encode("train", tokenizer)
    batch = encoded.batch(some_rows(encoded))
    features = signals(task, task.load_model(encoder).eval(), batch).features
    text = (batch["token_type_ids"].eq(1) & batch["input_ids"].ne(tokenizer.sep_token_id)
            & batch["attention_mask"].bool())
    allowed = text | batch["input_ids"].eq(tokenizer.cls_token_id)
    assert batch["attention_mask"].eq(0).any()
    for key in (LOGITS, END):
        probabilities = features[key].softmax(dim=-1)
        assert probabilities[~allowed].eq(0).all()
        assert probabilities[allowed].gt(0).all()


def test_losses_are_the_same_alone_and_in_a_batch(task: QuestionAnswering, encoder: str) -> None:
    encoded = task.encode("train", task.load_tokenizer(encoder))
    chosen = some_rows(encoded)
    assert len(set(encoded.lengths[chosen].tolist())) == 3
    student, teacher = drawn(3, 1), drawn(3, 2)

    def sums(places: list[int]) -> dict[Part, Tensor]:
        batch = encoded.batch([chosen[place] for place in places])
        mine, theirs = (Given(model.start.detach()[places], model.end.detach()[places]) for model in (student, teacher))
        found = signals(task, mine, batch)
        return losses()(found.features, signals(task, theirs, batch).features, found.masks, START)

    together, alone = sums([0, 1, 2]), [sums([place]) for place in range(3)]
    assert len(together) == 6
    for part, value in together.items():
        assert torch.isfinite(value)
        assert float(value.detach()) > 0
        torch.testing.assert_close(value, torch.stack([row[part] for row in alone]).sum())


def test_no_gradient_reaches_what_can_be_no_answer(task: QuestionAnswering, encoder: str) -> None:
    encoded = task.encode("train", task.load_tokenizer(encoder))
    batch = encoded.batch(some_rows(encoded))
    student = drawn(3, 1)
    found = signals(task, student, batch)
    sums = losses()(found.features, signals(task, drawn(3, 2), batch).features, found.masks, START)
    torch.stack(list(sums.values())).sum().backward()
    for side in (student.start, student.end):
        gradient = side.grad[:, : batch["input_ids"].shape[1]]
        assert torch.isfinite(gradient).all()
        assert gradient[batch["span_mask"].eq(0)].eq(0).all()
        assert gradient[batch["span_mask"].eq(1)].ne(0).all()


def test_a_row_without_a_label_adds_nothing_to_the_loss_of_the_labels(
    task: QuestionAnswering, encoder: str
) -> None:
    task.add_examples(Examples({**task.split("train").columns, "answers": [None] * 20}))
    encoded = task.encode("train", task.load_tokenizer(encoder))
    labelled = some_rows(encoded)[0]
    unlabelled = len(encoded) - 1
    model = drawn(2, 1)

    def hard(chosen: list[int]) -> Tensor:
        found = signals(task, Given(model.start.detach()[: len(chosen)], model.end.detach()[: len(chosen)]),
                        encoded.batch(chosen))
        sums = Objective([Term("hard", HardLabels(), all_heads=True)])(found.features, {}, found.masks, START)
        return torch.stack(list(sums.values()))

    assert encoded.rows["start_positions"][unlabelled] == -100
    torch.testing.assert_close(hard([labelled, unlabelled]), hard([labelled]))
