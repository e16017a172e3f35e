"""A teacher that is a function of texts: asked once a batch, once ever behind a cache, and held to its promise."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.errors import OutputError, PlanError
from stillhouse.tasks.batching import BucketLoader, BucketSampler
from stillhouse.tasks.text_bytes import text_rows
from stillhouse.teachers import CachedTeacher, CalledTeacher, TeacherSource
from stillhouse.teachers.stores import LmdbStore, MemoryStore
from stillhouse.testing.teachers import TeacherSourceSuite
from stillhouse.types import LOGITS, Batch, Key

ASKED = frozenset({LOGITS})


def share_of_vowels(texts: Sequence[Any]) -> np.ndarray[Any, Any]:
    """(rows, 2): probabilities that depend on the text, and for pairs on both."""
    whole = ["|".join(text) if isinstance(text, tuple) else text for text in texts]
    shares = [(1 + sum(c in "aeiou\x01\x02\x03" for c in text)) / (2 + len(text)) for text in whole]
    return np.array([[share, 1 - share] for share in shares])


def batch_of(texts: Sequence[str], pairs: Sequence[str] | None = None) -> Batch:
    inputs = text_rows(texts, pairs).batch(range(len(texts)))
    return Batch(inputs, inputs)


class TestCalledTeacher(TeacherSourceSuite):
    impossible_keys = frozenset({Key("hidden", 0), Key("logits", 1)})

    def make_source(self) -> TeacherSource:
        return CalledTeacher(share_of_vowels, num_labels=2, version="1")


class TestCalledTeacherOnTexts(TestCalledTeacher):
    def make_batches(self) -> list[Batch]:
        return [batch_of(["a fine film", "", "schön"]), batch_of(["x", "yy", "a"], ["", "b", "a long second text"])]


class TestUnnamedCalledTeacher(TestCalledTeacherOnTexts):
    def make_source(self) -> TeacherSource:
        return CalledTeacher(share_of_vowels)


class TestCachedCalledTeacher(TestCalledTeacherOnTexts):
    def make_source(self) -> TeacherSource:
        return CachedTeacher(CalledTeacher(share_of_vowels, num_labels=2), MemoryStore())


@pytest.mark.parametrize("pairs", [None, ["c", ""]])
def test_the_answer_is_what_the_function_says_of_each_text(pairs: list[str] | None) -> None:
    texts = ["aeiou", "b"]
    wanted = share_of_vowels(texts if pairs is None else list(zip(texts, pairs, strict=True)))
    found = CalledTeacher(share_of_vowels).signals(batch_of(texts, pairs), ASKED)[LOGITS]
    torch.testing.assert_close(found.softmax(dim=-1), torch.tensor(wanted, dtype=torch.float32))


def test_numbers_of_every_form_and_make_give_one_answer() -> None:
    row = [0.25, 0.75]
    logs = [math.log(p) for p in row]
    names = {"label_names": ["no", "yes"]}
    teachers = [CalledTeacher(lambda texts: torch.tensor([row] * len(texts))),
                CalledTeacher(lambda texts: [np.array(row)] * len(texts)),
                CalledTeacher(lambda texts: [{"yes": 0.75, "no": 0.25}] * len(texts), **names),
                CalledTeacher(lambda texts: [{"yes": 0.75}] * len(texts), missing_mass="spread", **names),
                CalledTeacher(lambda texts: [logs] * len(texts), form="log_probabilities"),
                CalledTeacher(lambda texts: [[p + 5 for p in logs]] * len(texts), form="logits")]
    for teacher in teachers:
        found = teacher.signals(batch_of(["a", "b", "c"]), ASKED)[LOGITS].softmax(dim=-1)
        torch.testing.assert_close(found, torch.tensor([row] * 3))


def test_the_function_is_called_once_a_batch_without_a_graph() -> None:
    calls: list[tuple[list[str], bool]] = []

    def function(texts: list[str]) -> Any:
        calls.append((texts, torch.is_grad_enabled()))
        return torch.full((len(texts), 2), 0.5, requires_grad=True)

    teacher = CalledTeacher(function)
    answer = teacher.signals(batch_of(["a", "b"]), ASKED)
    assert calls == [(["a", "b"], False)] and not answer[LOGITS].requires_grad and teacher.rows_forwarded == 2


def test_a_text_that_comes_twice_in_a_batch_is_asked_for_once() -> None:
    asked: list[list[str]] = []

    def function(texts: list[str]) -> Any:
        asked.append(texts)
        return share_of_vowels(texts)

    texts = ["b", "aeiou", "b", "a"]
    teacher = CalledTeacher(function)
    found = teacher.signals(batch_of(texts), ASKED)[LOGITS].exp()
    assert asked == [["b", "aeiou", "a"]] and teacher.rows_forwarded == 3
    torch.testing.assert_close(found, torch.tensor(share_of_vowels(texts), dtype=torch.float32))


def test_additional_arguments_reach_the_function() -> None:
    teacher = CalledTeacher(lambda texts, sure: [[sure, 1 - sure]] * len(texts))
    answer = teacher.signals(batch_of(["a"]), ASKED, {"sure": 0.75})[LOGITS]
    torch.testing.assert_close(answer.softmax(dim=-1), torch.tensor([[0.75, 0.25]]))


def corpus() -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(["good", "bad", "ü", "plot"], k=draw.randint(0, 9))) + str(n) for n in range(30)]


@pytest.mark.parametrize("on_disk", [False, True])
def test_behind_a_cache_each_text_is_asked_for_once_ever(on_disk: bool, tmp_path: Path) -> None:
    asked: list[str] = []

    def function(texts: list[str]) -> Any:
        asked.extend(texts)
        return share_of_vowels(texts)

    texts = [*corpus(), ""]
    rows = text_rows(texts)
    store: Any = None
    for epoch in range(3):
        if store is None or on_disk:  # a new process, as it were
            store = LmdbStore(tmp_path / "store") if on_disk else MemoryStore()
            teacher = CachedTeacher(CalledTeacher(function, version="1"), store)
            teacher.check(ASKED)
        loader = BucketLoader(rows, BucketSampler(rows.lengths, batch_size=3 + epoch, seed=epoch, shuffle=True))
        loader.batch_sampler.set_epoch(epoch)
        for batch, numbers in zip(loader, loader.batch_sampler, strict=True):
            found = teacher.signals(Batch(batch, batch), ASKED)[LOGITS].exp()
            wanted = share_of_vowels([texts[row] for row in numbers])
            torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32))
        if on_disk:
            store.close()
    assert sorted(asked) == sorted(texts)


def test_without_a_version_it_cannot_be_cached_on_disk(tmp_path: Path) -> None:
    assert CalledTeacher(share_of_vowels).fingerprint is None
    store = LmdbStore(tmp_path / "store")
    with pytest.raises(PlanError, match=r"cannot be cached on disk.*version"):
        CachedTeacher(CalledTeacher(share_of_vowels), store).check(ASKED)
    store.close()


def test_whatever_changes_the_answers_changes_the_name() -> None:
    sources = [CalledTeacher(share_of_vowels, version="1"), CalledTeacher(share_of_vowels, version="2"),
               CalledTeacher(share_of_vowels, version="1", form="logits"),
               CalledTeacher(share_of_vowels, version="1", missing_mass="spread"),
               CalledTeacher(share_of_vowels, version="1", label_names=["a", "b"]),
               CalledTeacher(share_of_vowels, version="1", label_names=["b", "a"])]
    assert len({source.fingerprint for source in sources}) == len(sources)


def test_batches_of_another_make_can_be_decoded_by_the_user() -> None:
    words = ["", "aeiou", "b"]
    inputs = torch.tensor([2, 1])
    teacher = CalledTeacher(share_of_vowels, decode=lambda batch: [words[number] for number in batch.tolist()])
    found = teacher.signals(Batch(inputs, inputs), ASKED)[LOGITS].exp()
    torch.testing.assert_close(found, torch.tensor(share_of_vowels(["b", "aeiou"]), dtype=torch.float32))


@pytest.mark.parametrize("inputs", [{"input_ids": torch.tensor([[101, 2054, 102]])},
                                    {"input_ids": torch.tensor([[200, 200]])}, {"values": torch.zeros(1, 3)},
                                    (torch.zeros(1, 3),)])
def test_batches_that_carry_no_texts_are_refused(inputs: Any) -> None:
    with pytest.raises(OutputError, match=r"text_rows, or give decode="):
        CalledTeacher(share_of_vowels).signals(Batch(inputs, inputs), ASKED)


@pytest.mark.parametrize(("answer", "arguments", "message"), [
    ([[0.5, 0.5]], {}, r"called with 2 texts and gave 1 rows; it must give an array \(2, labels\)"),
    (0.5, {"num_labels": 2}, r"gave a float; it must give an array \(2, 2\)"),
    ([[0.5, 0.5], [0.2, 0.3, 0.5]], {}, "rows of 2 and of 3 numbers"),
    ([[0.5, 0.5], [0.5, 0.5]], {"num_labels": 3}, r"row 1 \('first'\): .*has 2 numbers, and there are 3"),
    ([[0.5, 0.5], [0.5, 0.6]], {}, r"row 2 \('second'\): .*add up to 1\.1"),
    ([[0.5, 0.5], [math.nan, 0.6]], {}, "row 2 .*not finite"),
    ([[0.5, 0.5], [0.1, 0.9]], {"form": "logits"}, "every row is a distribution; set form='probabilities'"),
    ([{"yes": 1.0}, {"maybe": 1.0}], {"label_names": ["no", "yes"]}, "row 2 .*unknown label 'maybe'"),
    ([{"yes": 1.0}, {}], {"label_names": ["no", "yes"]}, "row 2 .*says nothing about any label"),
    ([{"yes": 1.0}, {"no": 1.0}], {}, "row 1 .*give label_names"),
])
def test_an_answer_of_another_kind_is_refused(answer: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OutputError, match=message):
        CalledTeacher(lambda texts: answer, **arguments).signals(batch_of(["first", "second"]), ASKED)


def test_ready_made_outputs_and_contradicting_numbers_are_refused() -> None:
    batch = batch_of(["a"])
    with pytest.raises(PlanError, match="leave 'teacher_cache' out"):
        CalledTeacher(share_of_vowels).signals(Batch(batch.student, batch.teacher, teacher_outputs=1), ASKED)
    with pytest.raises(PlanError, match="num_labels=3, but label_names are 2: no, yes"):
        CalledTeacher(share_of_vowels, num_labels=3, label_names=["no", "yes"])
