"""The conformance suite of teacher sources.

Subclass `TeacherSourceSuite` in a test file of your own; pytest then runs every promise of `TeacherSource` on yours:

    from stillhouse.testing.teachers import TeacherSourceSuite

    class TestServedTeacher(TeacherSourceSuite):
        impossible_keys = frozenset({Key("hidden", 1)})       # it serves logits alone

        def make_source(self):
            return ServedTeacher("127.0.0.1:8000")

A source that runs models in this process gives them in `models_of`; without it, what the suite promises about models
is skipped. `make_batches` may be overridden where the ready-made batches of token ids do not suit.
"""


from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from stillhouse.batches import num_rows, select_rows, tensors_of
from stillhouse.errors import PlanError
from stillhouse.teachers import TeacherSource
from stillhouse.types import ALL_LOGITS, LOGITS, Batch, Features, Key


class TeacherSourceSuite(ABC):
    """What every `TeacherSource` must hold. Values are compared at the positions that ``attention_mask`` keeps."""

    keys: ClassVar[frozenset[Key]] = frozenset({LOGITS})
    """What the source is asked for: all that it can give, or a part worth testing."""

    impossible_keys: ClassVar[frozenset[Key]] = frozenset({Key("hidden", 999)})
    """Keys of which ``check`` must refuse each; empty where only an answer can tell (a function adaptor's)."""

    num_heads: ClassVar[int] = 1
    """How many logits heads the source gives."""

    vocabulary_size: ClassVar[int] = 20
    """The ready-made batches hold token ids below this number."""

    tolerance: ClassVar[float] = 1e-5
    """Absolute and relative, for what should be equal but may be summed in another order."""

    @abstractmethod
    def make_source(self) -> TeacherSource:
        """A new source, equal in its answers each time within one test: fix the seed, or load the same weights."""

    def models_of(self, source: TeacherSource) -> Sequence[nn.Module]:
        """The models that a source runs in this process, none if it runs none."""
        return ()

    def make_batches(self) -> list[Batch]:
        """Two batches of mappings with ``input_ids`` and ``attention_mask``, (B, L), of rows of different lengths."""
        generator = torch.Generator().manual_seed(0)
        batches = []
        for lengths in ([4, 6, 2, 6], [3, 1, 5]):
            mask = torch.arange(max(lengths)).lt(torch.tensor(lengths).unsqueeze(1)).long()
            ids = torch.randint(1, self.vocabulary_size, mask.shape, generator=generator) * mask
            inputs = {"input_ids": ids, "attention_mask": mask}
            batches.append(Batch(inputs, inputs))
        return batches

    # What is answered

    def test_it_answers_the_keys_asked_for(self) -> None:
        source = self.make_source()
        for batch in self.make_batches():
            answer = source.signals(batch, self.keys)
            assert set(answer) >= self.keys
            for key in self.keys:
                assert answer[key].shape[0] == num_rows(batch.teacher)

    def test_a_key_has_the_same_answer_alone(self) -> None:
        source = self.make_source()
        for batch in self.make_batches():
            together = source.signals(batch, self.keys)
            for key in self.keys:
                self._require_equal(self.make_source().signals(batch, frozenset({key})), together, batch, {key})

    def test_all_logits_are_every_head(self) -> None:
        source = self.make_source()
        for batch in self.make_batches():
            answer = source.signals(batch, frozenset({ALL_LOGITS}))
            heads = {Key("logits", head) for head in range(self.num_heads)}
            assert {key for key in answer if key.kind == "logits" and key.index is not None} == heads
            self._require_equal(answer, self.make_source().signals(batch, frozenset(heads)), batch, heads)

    def test_no_keys_are_no_answer_and_no_forward(self) -> None:
        source = self.make_source()
        with self._no_forward(source):
            assert source.signals(self.make_batches()[0], frozenset()) == {}

    def test_answers_have_no_graph_and_serve_in_one(self) -> None:
        source = self.make_source()
        for value in source.signals(self.make_batches()[0], self.keys).values():
            assert not value.requires_grad and value.grad_fn is None
            if value.is_floating_point():
                student = torch.ones_like(value, requires_grad=True)
                (student * value).sum().backward()
                assert student.grad is not None and student.grad.equal(value)

    def test_a_row_does_not_depend_on_its_neighbours(self) -> None:
        for batch in self.make_batches():
            together = self.make_source().signals(batch, self.keys)
            alone = self.make_source()
            for row in range(_num_rows(batch)):
                one = _with_rows(batch, [row])
                self._require_equal(alone.signals(one, self.keys), _rows_of(together, [row]), one, self.keys)

    def test_a_row_does_not_depend_on_padding(self) -> None:
        for batch in self.make_batches():
            if not _is_padded(batch):
                pytest.skip("these batches have no attention_mask, so nothing tells padding")
            tight = self.make_source().signals(batch, self.keys)
            wide = _with_padding(batch, 3)
            self._require_equal(self.make_source().signals(wide, self.keys), tight, wide, self.keys, other=batch)

    def test_rows_are_answered_in_the_batch_s_order(self) -> None:
        source = self.make_source()
        for batch in self.make_batches():
            answer = source.signals(batch, self.keys)
            order = torch.randperm(_num_rows(batch), generator=torch.Generator().manual_seed(1)).tolist()
            shuffled = _with_rows(batch, order)
            self._require_equal(source.signals(shuffled, self.keys), _rows_of(answer, order), shuffled, self.keys)

    def test_widths_known_beforehand_are_those_of_the_answer(self) -> None:
        source = self.make_source()
        batch = self.make_batches()[0]
        answer = source.signals(batch, self.keys)
        for key in self.keys:
            width = answer[key].shape[1 if key.kind.startswith("attention") else -1]  # heads, features or classes
            assert source.for_task(batch.task).width(key) in (None, width)

    def test_mapping_its_leaves_to_themselves_changes_nothing(self) -> None:
        source = self.make_source()
        again = source.map_leaves(lambda leaf: leaf)
        for batch in self.make_batches():
            self._require_equal(again.signals(batch, self.keys), source.signals(batch, self.keys), batch, self.keys)

    # What is refused

    def test_check_allows_what_can_be_given(self) -> None:
        source = self.make_source()
        with self._no_forward(source):
            for batch in self.make_batches():
                source.for_task(batch.task).check(self.keys)

    def test_check_refuses_what_can_never_be_given(self) -> None:
        if not self.impossible_keys:
            pytest.skip("only an answer can tell what this source gives")
        source = self.make_source()
        for key in self.impossible_keys:
            for batch in self.make_batches():
                with self._no_forward(source), pytest.raises(PlanError):
                    source.for_task(batch.task).check(self.keys | {key})

    # What is left behind

    def test_the_batch_is_left_as_it_was(self) -> None:
        source = self.make_source()
        for batch in self.make_batches():
            before = [(name, tensor.clone()) for name, tensor in tensors_of(batch.teacher)]
            source.signals(batch, self.keys)
            for (name, tensor), (kept_name, kept) in zip(tensors_of(batch.teacher), before, strict=True):
                assert name == kept_name and tensor.equal(kept)

    def test_modes_weights_and_gradients_are_left_as_they_were(self) -> None:
        source = self.make_source()
        models = self._models(source)
        modules = [module for model in models for module in model.modules()]
        parameters = [parameter for model in models for parameter in model.parameters()]
        for number, module in enumerate(modules):
            module.training = number % 3 != 0
        for number, parameter in enumerate(parameters):
            parameter.requires_grad_(number % 2 == 0)
            parameter.grad = torch.full_like(parameter, 0.5) if number % 4 == 0 else None
        tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        weights = [tensor.detach().clone() for tensor in tensors]
        for batch in self.make_batches():
            source.signals(batch, self.keys)
        assert [module.training for module in modules] == [number % 3 != 0 for number in range(len(modules))]
        assert all(tensor.equal(before) for tensor, before in zip(tensors, weights, strict=True))
        for number, parameter in enumerate(parameters):
            assert parameter.requires_grad == (number % 2 == 0)
            if number % 4 == 0:
                assert parameter.grad is not None and parameter.grad.eq(0.5).all()
            else:
                assert parameter.grad is None

    def test_a_model_in_training_mode_answers_as_in_evaluation(self) -> None:
        source, other = self.make_source(), self.make_source()
        for model in self._models(source):
            model.train()
        for model in self._models(other):
            model.eval()
        batch = self.make_batches()[0]
        self._require_equal(source.signals(batch, self.keys), other.signals(batch, self.keys), batch, self.keys)

    def test_a_failed_forward_leaves_the_modes_as_they_were(self) -> None:
        source = self.make_source()
        models = self._models(source)
        modules = [module for model in models for module in model.modules()]
        for number, module in enumerate(modules):
            module.training = number % 3 != 0
        with self._on_forward(models, RuntimeError("lost the device")):
            for batch in self.make_batches():
                with pytest.raises(RuntimeError, match="lost the device"):
                    source.signals(batch, self.keys)
        assert [module.training for module in modules] == [number % 3 != 0 for number in range(len(modules))]

    # What it is called

    def test_equal_sources_have_equal_fingerprints(self) -> None:
        source, other = self.make_source(), self.make_source()
        before = source.fingerprint
        source.signals(self.make_batches()[0], self.keys)
        assert source.fingerprint == before == other.fingerprint

    def test_changed_weights_have_another_fingerprint(self) -> None:
        source = self.make_source()
        if source.fingerprint is None:
            pytest.skip("this source has no name that holds across processes")
        fingerprints: set[str | None] = {source.fingerprint}
        num_models = len(self._models(source))
        for number in range(num_models):
            changed = self.make_source()
            parameter = next(self._models(changed)[number].parameters())
            with torch.no_grad():
                parameter.view(-1)[-1] += 1.0
            fingerprints.add(changed.fingerprint)
        assert len(fingerprints) == 1 + num_models and None not in fingerprints

    # How the suite looks

    def _models(self, source: TeacherSource) -> Sequence[nn.Module]:
        models = self.models_of(source)
        if not models:
            pytest.skip("this source runs no model in this process (models_of gives none)")
        return models

    @contextmanager
    def _no_forward(self, source: TeacherSource) -> Iterator[None]:
        before = source.rows_forwarded
        with self._on_forward(self.models_of(source), AssertionError("the source ran a model")):
            yield
        assert source.rows_forwarded == before

    @contextmanager
    def _on_forward(self, models: Sequence[nn.Module], error: Exception) -> Iterator[None]:
        """Inside, each of the models raises ``error`` at the end of its forward."""
        def fail(module: nn.Module, args: Any, output: Any) -> None:
            raise error

        with ExitStack() as stack:
            for model in models:
                stack.callback(model.register_forward_hook(fail).remove)
            yield

    def _require_equal(
        self, found: Features, expected: Features, batch: Batch, keys: set[Key] | frozenset[Key],
        other: Batch | None = None,
    ) -> None:
        """``found`` answers ``batch``, ``expected`` answers ``other``: the same rows, perhaps with other padding."""
        for key in keys:
            for row in range(_num_rows(batch)):
                value, wanted = found[key][row], expected[key][row]
                try:
                    torch.testing.assert_close(
                        _kept(key, value, batch, row), _kept(key, wanted, other or batch, row),
                        atol=self.tolerance, rtol=self.tolerance,
                    )
                except AssertionError as error:
                    raise AssertionError(f"{key}, row {row}: {error}") from error


def _num_rows(batch: Batch) -> int:
    rows = num_rows(batch.teacher)
    assert rows is not None, "the suite needs batches whose tensors all start with the same number of rows"
    return rows


def _is_padded(batch: Batch) -> bool:
    return isinstance(batch.teacher, Mapping) and "attention_mask" in batch.teacher


def _with_inputs(batch: Batch, inputs: Any) -> Batch:
    return dataclasses.replace(batch, student=inputs, teacher=inputs)


def _with_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    return _with_inputs(batch, select_rows(batch.teacher, rows))


def _rows_of(features: Features, rows: Sequence[int]) -> Features:
    return {key: value[list(rows)] for key, value in features.items()}


def _with_padding(batch: Batch, width: int) -> Batch:
    """Zeros to the right of every tensor that has the attention mask's positions."""
    positions = batch.teacher["attention_mask"].shape[1]

    def wider(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[1] != positions:
            return value
        return torch.cat([value, value.new_zeros(value.shape[0], width, *value.shape[2:])], dim=1)

    return _with_inputs(batch, {name: wider(value) for name, value in batch.teacher.items()})


def _kept(key: Key, value: Tensor, batch: Batch, row: int) -> Tensor:
    """One row's value at the positions that its batch keeps; all of it where it does not run over positions."""
    if not _is_padded(batch):
        return value
    kept = batch.teacher["attention_mask"][row].ne(0)
    if key.kind.startswith("attention"):
        return value[..., kept, :][..., kept]
    return value[kept] if value.dim() == 2 and value.shape[0] == len(kept) else value


