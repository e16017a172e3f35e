"""The conformance suite of tasks.

Subclass `TaskSuite` in a test file of your own; pytest then runs every promise of `Task` on yours:

    from stillhouse.testing.tasks import TaskSuite

    class TestSarcasm(TaskSuite):
        changes = {"max_length": 9}                            # another value for each setting that decides

        def make_task(self, folder):
            write_three_files(folder)                          # the same rows each time
            task = Sarcasm(SarcasmData(train=f"{folder}/train.jsonl", validation=..., test=..., max_length=12))
            task.load()
            return task

        def make_checkpoint(self, folder):
            BertModel(BertConfig(hidden_size=8, ...)).save_pretrained(folder)
            BertTokenizer(vocab=...).save_pretrained(folder)
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.adaptors.base import Signals
from stillhouse.batches import as_batch, num_rows, row_keys
from stillhouse.errors import DataError, PlanError
from stillhouse.losses import ForwardKL, Loss
from stillhouse.objective import Counts, Objective, Part, Term
from stillhouse.tasks import Examples, Judgement, Task
from stillhouse.tasks.answering import answers, source_answers
from stillhouse.tasks.data_files import read_rows
from stillhouse.tasks.pretrained import save_pretrained
from stillhouse.tasks.said import Said
from stillhouse.teachers import CachedTeacher, LiveTeacher
from stillhouse.teachers.stores import MemoryStore
from stillhouse.testing.looking import (
    changed,
    hard_loss,
    kept,
    random_states,
    require_alike,
    rows_of,
    run,
    structure,
)
from stillhouse.types import Progress


class TaskSuite(ABC):
    """What every `Task` must hold. ``folder`` is an empty one of pytest's, another one for each test."""

    changes: ClassVar[Mapping[str, Any]] = {}
    """For each setting that ``decides`` what a model sees: another value that goes with the same rows."""

    tolerance: ClassVar[float] = 1e-5
    """Absolute and relative, for what should be equal but may be summed in another order."""

    @abstractmethod
    def make_task(self, folder: Path) -> Task[Any]:
        """A loaded task with three splits, whose files lie below ``folder``; the same rows each time.

        At least 12 training rows of different lengths, no two the same, and none longer than ``max_length``.
        """

    @abstractmethod
    def make_checkpoint(self, folder: Path) -> None:
        """Write a tiny encoder and its tokenizer, as ``save_pretrained`` does."""

    def make_kd_losses(self, task: Task[Any]) -> dict[str, Loss]:
        """Losses between the student's answers and the teacher's, by name."""
        return {"kd": ForwardKL(2.0)}

    def metric_of(self, said: Sequence[Said], gold: Sequence[Any]) -> float | None:
        """The task's metric, worked out from the words alone by a way of your own; None: there is none."""
        return None

    @pytest.fixture
    def task(self, tmp_path: Path) -> Task[Any]:
        """A task that nothing was done with."""
        return self._made(tmp_path / "data")

    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> str:
        """A folder with an encoder and its tokenizer."""
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        self.make_checkpoint(folder)
        return str(folder)

    # The data

    def test_every_split_has_its_rows(self, task: Task[Any], checkpoint: str) -> None:
        tokenizer = task.load_tokenizer(checkpoint)
        assert set(task.num_rows) == {"train", "validation", "test"} and task.num_rows["train"] >= 12
        for split, count in task.num_rows.items():
            encoded = task.encode(split, tokenizer)
            assert len(task.split(split)) == count and len(encoded) == len(encoded.lengths) > 0
            assert encoded.lengths.max() <= task.spec.max_length
        assert len(set(task.encode("train", tokenizer).lengths.tolist())) > 1

    def test_examples_are_what_json_can_hold(self, task: Task[Any]) -> None:
        for split in task.num_rows:
            columns = {name: list(values) for name, values in task.split(split).columns.items()}
            assert json.loads(json.dumps(columns)) == columns
            assert {len(values) for values in columns.values()} == {task.num_rows[split]}

    def test_columns_are_of_texts_or_of_labels(self, task: Task[Any]) -> None:
        columns, text, label = set(task.split("train").columns), set(task.text_columns), set(task.label_columns)
        assert label <= columns and not label & text
        assert columns <= text | label or not text, "what text_columns does not name would be lost by augmentation"

    def test_without_validation_a_tenth_is_held_out_and_trained_on_by_nobody(self, task: Task[Any]) -> None:
        if type(task.spec).model_fields["validation"].is_required():
            pytest.skip("this task needs validation data")
        held = self._again(task, validation=None)
        parts = [rows_of(held.split(split)) for split in ("train", "validation")]
        whole = rows_of(task.split("train"))
        assert sorted(parts[0] + parts[1]) == sorted(whole) and len(parts[1]) == max(1, round(len(whole) / 10))
        assert held.fingerprint == self._again(task, validation=None).fingerprint

    def test_a_limit_keeps_the_first_rows(self, task: Task[Any]) -> None:
        limited = self._again(task, limit=2)
        assert rows_of(limited.split("train")) == rows_of(task.split("train"))[:2]
        assert limited.num_rows == task.num_rows | {"train": 2} and limited.label_names == task.label_names
        assert limited.split_fingerprint("test") == task.split_fingerprint("test")
        assert limited.split_fingerprint("train") != task.split_fingerprint("train")

    def test_a_split_that_is_not_there_is_named(self, task: Task[Any]) -> None:
        without = self._again(task, test=None)
        assert "test" not in without.num_rows
        with pytest.raises(DataError, match="test"):
            without.split("test")

    def test_fingerprints_follow_content_and_settings_alone(self, task: Task[Any], tmp_path: Path) -> None:
        assert set(self.changes) == set(task.spec.decides), "give another value for each setting in `decides`"
        assert self._made(tmp_path / "elsewhere").fingerprint == task.fingerprint
        changed = [self._again(task, **{name: value}) for name, value in self.changes.items()]
        changed.append(self._again(task, limit=task.num_rows["train"] - 1))
        assert len({each.fingerprint for each in (task, *changed)}) == 1 + len(changed)
        before = task.fingerprint
        task.add_examples(task.split("train").pick([0]))
        assert task.fingerprint != before

    def test_loading_encoding_and_evaluating_leave_the_random_generators(self, tmp_path: Path, checkpoint: str) -> None:
        first = self._made(tmp_path / "data")
        model = self._model(first, checkpoint)
        for again in (False, True):  # the first evaluation imports sklearn, which draws from `random` then
            before = random_states()
            task = self._again(first)
            encoded = task.encode("validation", task.load_tokenizer(checkpoint))
            list(task.loader(encoded, batch_size=4, seed=1, shuffle=True))
            task.evaluate(model, encoded)
            assert not again or random_states() == before, "a global random generator has moved"

    # Batches

    def test_a_row_is_called_the_same_in_any_batch(self, task: Task[Any], checkpoint: str) -> None:
        encoded = task.encode("train", task.load_tokenizer(checkpoint))
        everything = list(range(len(encoded)))
        for epoch in (None, 0):
            assert num_rows(encoded.batch([2, 0, 1], epoch)) == 3, "rows are the first axis of every tensor"
            keys = row_keys(encoded.batch(everything, epoch))
            assert keys == [row_keys(encoded.batch([row], epoch))[0] for row in everything]
            assert len(set(keys)) == len(keys), "make_task gives no two rows that are the same"
        again = row_keys(encoded.batch(everything, 1))
        assert (again == keys) == task.repeats_inputs

    def test_the_order_is_a_function_of_seed_and_epoch(self, task: Task[Any], checkpoint: str) -> None:
        encoded = task.encode("train", task.load_tokenizer(checkpoint))

        def order(seed: int, epoch: int) -> list[list[list[Any]]]:
            loader = task.loader(encoded, batch_size=3, seed=seed, shuffle=True)
            loader.batch_sampler.set_epoch(epoch)
            batches = list(loader)
            assert len(batches) == len(loader)
            keys = [key for batch in batches for key in row_keys(batch)]
            assert sorted(keys) == sorted(row_keys(encoded.batch(range(len(encoded)), epoch)))
            return [[value.tolist() for value in batch.values()] for batch in batches]

        assert order(1, 2) == order(1, 2)
        assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4

    def test_only_real_tokens_are_compared_with_the_teacher(self, task: Task[Any], checkpoint: str) -> None:
        """No padding and no special tokens, but for one position a row where spans may say that there is no answer."""
        tokenizer = task.load_tokenizer(checkpoint)
        encoded, adaptor = task.encode("train", tokenizer), task.adaptor()
        assert adaptor.declares_masks
        for epoch in (None, 0):
            batch = encoded.batch(list(range(len(encoded))), epoch)
            masks = adaptor.masks(batch)
            ids, kept = batch["input_ids"], batch["attention_mask"].ne(0)
            real = kept & ~torch.isin(ids, torch.tensor(structure(tokenizer)))
            compared = masks["logits"].ne(0)
            assert compared.any()
            if "span_mask" in batch:
                allowed = batch["span_mask"].ne(0)
                assert allowed.any(dim=1).all() and not (allowed & ~kept).any()
                assert (allowed & ~real).sum(dim=1).max() <= 1
            compared = batch["logits_mask"].ne(0) if "logits_mask" in batch else compared
            if compared.shape == ids.shape:
                assert not (compared & ~real).any()
                assert not (batch["labels"].ge(0) & ~compared).any(), "the teacher was trained where labels are"

    def test_a_row_alone_is_answered_as_in_a_padded_batch(self, task: Task[Any], checkpoint: str) -> None:
        model = self._model(task, checkpoint)
        encoded = task.encode("train", task.load_tokenizer(checkpoint))
        together = run(task, model, encoded.batch(list(range(len(encoded)))), task.reads)
        for row in range(len(encoded)):
            alone = run(task, model, encoded.batch([row]), task.reads)
            assert set(alone.features) == set(together.features) >= task.reads
            for key in task.reads:
                self._require_close(kept(key, alone, 0), kept(key, together, row), f"{key}, row {row}")

    # Answers

    def test_answers_do_not_depend_on_how_rows_are_put_together(self, task: Task[Any], checkpoint: str) -> None:
        model, adaptor = self._model(task, checkpoint), task.adaptor()
        encoded = task.encode("test", task.load_tokenizer(checkpoint))
        expected = task.evaluate(model, encoded)
        for batch_size in (1, 3):
            self._require_same(task.evaluate(model, encoded, batch_size=batch_size), expected)
        found = list(answers(model, adaptor, encoded, task.reads, batch_size=2))
        random.Random(0).shuffle(found)
        self._require_same(task.judged(encoded, iter(found)), expected)
        taught = source_answers(LiveTeacher(model, adaptor), encoded, task.reads, batch_size=5)
        self._require_same(task.judged(encoded, taught), expected)

    def test_a_judgement_has_the_metric_and_agrees_with_itself(self, task: Task[Any], checkpoint: str) -> None:
        judgement = task.evaluate(self._model(task, checkpoint), task.encode("test", task.load_tokenizer(checkpoint)))
        assert task.metric in judgement.metrics
        assert all(isinstance(value, float) for value in judgement.metrics.values())
        assert judgement.answers.size and judgement.agreement(judgement) == pytest.approx(1.0)

    def test_what_is_said_is_in_order_and_json_can_hold_it(self, task: Task[Any], checkpoint: str) -> None:
        model, encoded = self._model(task, checkpoint), task.encode("test", task.load_tokenizer(checkpoint))
        judgement = task.evaluate(model, encoded)
        if task.unsaid:
            with pytest.raises(PlanError, match=task.name):
                _ = judgement.said
            return
        said, examples = judgement.said, task.split("test")
        assert len(said) == len(task.inputs(examples)) == len(task.gold(examples)) == task.num_rows["test"]
        for value in (said, task.inputs(examples), task.gold(examples)):
            assert json.loads(json.dumps(value, allow_nan=False)) == value
        rows = [json.dumps(row) for row in task.inputs(examples)]
        assert len(set(rows)) == len(rows), "all that a model reads is shown"
        found = list(answers(model, task.adaptor(), encoded, task.reads, batch_size=2))
        random.Random(0).shuffle(found)
        require_alike(task.judged(encoded, iter(found)).said, said, self.tolerance)

    def test_what_is_said_is_what_is_judged(self, task: Task[Any], checkpoint: str) -> None:
        if task.unsaid:
            pytest.skip("this task has no words for what a model says")
        model, encoded = self._model(task, checkpoint), task.encode("test", task.load_tokenizer(checkpoint))
        gold = task.gold(task.split("test"))
        for judged in (model, changed(model)):
            judgement = task.evaluate(judged, encoded)
            metric = self.metric_of(judgement.said, gold)
            assert metric is None or metric == pytest.approx(judgement.metrics[task.metric], abs=1e-6)

    def test_rows_are_answered_without_labels(self, task: Task[Any], checkpoint: str, tmp_path: Path) -> None:
        model, tokenizer = self._model(task, checkpoint), task.load_tokenizer(checkpoint)
        rows = read_rows(task.spec.train)
        examples = task.unlabelled(rows)
        assert len(examples) == len(task.inputs(examples)) and task.gold(examples) == [None] * len(examples)
        if task.label_columns:
            known = task.examples(rows, "train")
            assert task.inputs(known) == task.inputs(examples) and None not in task.gold(known)
        if not task.unsaid:
            assert len(task.evaluate(model, task.encoded(examples, tokenizer)).said) == len(examples)

    def test_a_saved_model_gives_the_same_answers(self, task: Task[Any], checkpoint: str, tmp_path: Path) -> None:
        model, tokenizer = self._model(task, checkpoint), task.load_tokenizer(checkpoint)
        assert type(model).__name__.endswith(task.head)
        before = task.evaluate(model, task.encode("test", tokenizer))
        save_pretrained(model, tokenizer, tmp_path / "saved")
        loaded = task.load_model(str(tmp_path / "saved"))
        after = task.evaluate(loaded, task.encode("test", task.load_tokenizer(str(tmp_path / "saved"))))
        self._require_same(after, before)

    def test_a_cached_teacher_is_asked_once(self, task: Task[Any], checkpoint: str) -> None:
        if not task.repeats_inputs:
            pytest.skip("every epoch shows this task's models other inputs")
        live = LiveTeacher(self._model(task, checkpoint), task.adaptor())
        cached = CachedTeacher(live, MemoryStore())
        encoded, keys = task.encode("train", task.load_tokenizer(checkpoint)), task.reads
        for epoch in (0, 1):
            before = cached.rows_forwarded
            loader = task.loader(encoded, batch_size=3 + epoch, seed=0, shuffle=True)
            loader.batch_sampler.set_epoch(epoch)
            for inputs in loader:
                masks = task.adaptor().masks(inputs)
                found = Signals(cached.signals(as_batch(inputs), keys), masks)
                expected = run(task, live.model, inputs, keys)
                for key in keys:
                    assert found.features[key].shape == expected.features[key].shape
                    for row in range(num_rows(inputs) or 0):
                        self._require_close(kept(key, found, row), kept(key, expected, row), str(key))
            asked = cached.rows_forwarded - before
            assert asked == (0 if epoch else len(encoded))

    # Losses

    def test_rows_without_a_label_are_for_the_teacher_alone(self, task: Task[Any], checkpoint: str) -> None:
        if not task.label_columns:
            pytest.skip("this task's rows have no labels")
        tokenizer = task.load_tokenizer(checkpoint)
        labelled = task.split("train").pick(range(4))
        nothing: dict[str, Sequence[Any]] = {name: [None] * 4 for name in task.label_columns}
        unlabelled = Examples({**labelled.columns, **nothing})
        encoded = [task.encoded(examples, tokenizer) for examples in (labelled, unlabelled)]
        before, batch = (each.batch(list(range(len(each))), 0) for each in encoded)
        assert row_keys(before) == row_keys(batch)
        known, unknown = (task.adaptor().masks(inputs) for inputs in (before, batch))
        assert known["labels"].ne(0).any() and not unknown["labels"].ne(0).any()
        assert known["logits"].equal(unknown["logits"])
        model = self._model(task, checkpoint)
        sums, counts = self._sums(task, model, changed(model), batch)
        assert "hard" in {part.term for part in sums}
        for part, value in sums.items():
            assert value.isfinite() and (value.item() == 0) == (part.term == "hard")
        sum(sums.values(), torch.zeros(())).backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.ne(0).any() for gradient in gradients)
        assert {int(count) for over, count in counts.items() if over.mask == "labels"} == {0}
        task.add_examples(unlabelled)
        assert len(task.encode("train", tokenizer)) > len(encoded[0]) and task.num_rows["train"] >= 16

    def test_micro_batches_add_up_to_the_whole(self, task: Task[Any], checkpoint: str) -> None:
        student = self._model(task, checkpoint)
        teacher = changed(student)
        encoded = task.encode("train", task.load_tokenizer(checkpoint))
        rows = list(range(len(encoded)))
        whole, counts = self._sums(task, student, teacher, encoded.batch(rows, 0))
        assert all(value.item() > 0 for value in whole.values())
        for size in (1, 5):
            parts = [self._sums(task, student, teacher, encoded.batch(rows[start : start + size], 0))
                     for start in range(0, len(rows), size)]
            for name, value in whole.items():
                found = torch.stack([sums[name] for sums, _ in parts]).sum()
                self._require_close(found / len(rows), value / len(rows), name.term)
            for over, count in counts.items():
                assert sum(int(part[over]) for _, part in parts) == int(count)

    # How the suite looks

    def _made(self, folder: Path) -> Task[Any]:
        folder.mkdir(exist_ok=True)
        return self.make_task(folder)

    def _again(self, task: Task[Any], **changes: Any) -> Task[Any]:
        """The same task with other settings, loaded."""
        again = type(task)(task.spec.model_copy(update=changes))
        again.load()
        return again

    def _model(self, task: Task[Any], checkpoint: str) -> PreTrainedModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = task.load_model(checkpoint)
        model.train(False)
        return model

    def _sums(self, task: Task[Any], student: nn.Module, teacher: nn.Module,
              inputs: Mapping[str, Any]) -> tuple[dict[Part, Tensor], Counts]:
        """The sum of each loss, and the units that they run over."""
        all_heads = task.num_heads > 1
        losses = self.make_kd_losses(task) | hard_loss(task)
        objective = Objective([Term(name, loss, all_heads=all_heads) for name, loss in losses.items()])
        needs = objective.needs()
        own = run(task, student, inputs, needs.student)
        with torch.no_grad():
            other = run(task, teacher, inputs, needs.teacher)
        return objective(own.features, other.features, own.masks, Progress(0, 1)), objective.counts(own.masks)

    def _require_same(self, found: Judgement, expected: Judgement) -> None:
        assert found.metrics == pytest.approx(expected.metrics, abs=self.tolerance, rel=self.tolerance)
        assert found.answers.shape == expected.answers.shape
        if np.issubdtype(expected.answers.dtype, np.floating):
            assert np.allclose(found.answers, expected.answers, atol=self.tolerance, rtol=self.tolerance)
        else:
            assert (found.answers == expected.answers).all()

    def _require_close(self, found: Tensor, expected: Tensor, what: str) -> None:
        torch.testing.assert_close(found, expected, atol=self.tolerance, rtol=self.tolerance,
                                   msg=lambda text: f"{what}: {text}")
