"""Promises of the batches: every row once, the same order again, little padding, as padding by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist

from stillhouse.errors import ConfigError
from stillhouse.tasks.batching import BucketLoader, BucketSampler, EncodedSplit, TwoSided, compact
from stillhouse.tasks.pretrained import load_tokenizer
from stillhouse.training.sources import LoaderSource


def split(num_rows: int, side: Literal["left", "right"] = "right", types: bool = True) -> EncodedSplit:
    draw = random.Random(5)
    ids = [[draw.randrange(1, 99) for _ in range(draw.randint(1, 40))] for _ in range(num_rows)]
    tokens = {"input_ids": ids}
    if types:
        tokens["token_type_ids"] = [[1 + token % 2 for token in row] for row in ids]
    return EncodedSplit(compact(tokens), {"labels": torch.arange(num_rows)}, {"token_type_ids": 7}, side)


def sampler(
    num_rows: int, *, batch_size: int = 4, seed: int = 0, epoch: int = 0, shuffle: bool = True
) -> BucketSampler:
    found = BucketSampler(split(num_rows).lengths, batch_size=batch_size, seed=seed, shuffle=shuffle)
    found.set_epoch(epoch)
    return found


@pytest.mark.parametrize("num_rows", [1, 4, 7, 803])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_covers_every_row_exactly_once(num_rows: int, shuffle: bool) -> None:
    batches = list(sampler(num_rows, shuffle=shuffle))
    assert sorted(row for batch in batches for row in batch) == list(range(num_rows))
    assert len(batches) == len(sampler(num_rows)) == -(-num_rows // 4)
    assert sum(len(batch) < 4 for batch in batches) <= 1


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)[1].tolist()
    orders = {(seed, epoch): list(sampler(300, seed=seed, epoch=epoch)) for seed in (0, 1, -3) for epoch in (0, 1)}
    after = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True)[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert list(sampler(300, seed=1, epoch=1)) == orders[1, 1]
    assert len({str(order) for order in orders.values()}) == 6
    again = sampler(300, seed=1)
    list(again)
    again.set_epoch(1)
    assert list(again) == orders[1, 1]


def test_an_iteration_keeps_the_order_it_started_with() -> None:
    changing = sampler(300)
    iterator = iter(changing)
    changing.set_epoch(1)
    assert list(iterator) == list(sampler(300))


def test_without_shuffling_rows_keep_their_order() -> None:
    assert list(sampler(10, shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_rows_of_a_batch_are_of_similar_length_but_batches_are_mixed() -> None:
    lengths = split(1000).lengths
    batches = list(sampler(1000, batch_size=8))
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 2
    longest = [lengths[batch].max() for batch in batches]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.3
    partners = [{frozenset(b) for b in sampler(1000, batch_size=8, epoch=epoch)} for epoch in (0, 1)]
    assert not partners[0] & partners[1]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("types", [False, True])
def test_a_batch_equals_padding_by_hand(side: Literal["left", "right"], types: bool) -> None:
    encoded = split(9, side, types)
    rows = [8, 0, 3]
    batch = encoded.batch(rows)
    tokens = encoded.tokens
    longest = max(len(tokens["input_ids"][row]) for row in rows)

    def padded(values: list[int], padding: int) -> list[int]:
        fill = [padding] * (longest - len(values))
        return [*values, *fill] if side == "right" else [*fill, *values]

    expected = {
        "input_ids": [padded(list(tokens["input_ids"][row]), 0) for row in rows],
        "attention_mask": [padded([1] * len(tokens["input_ids"][row]), 0) for row in rows],
        "labels": rows,
    }
    if types:
        expected["token_type_ids"] = [padded(list(tokens["token_type_ids"][row]), 7) for row in rows]
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_lengths_are_those_of_the_rows() -> None:
    encoded = EncodedSplit(compact({"input_ids": [[1], [1, 2, 3]]}), {}, {})
    assert (encoded.lengths.tolist(), encoded.mean_length, len(encoded)) == ([1, 3], 2.0, 2)
    choices = EncodedSplit(compact({"input_ids": [[1], [1, 2, 3], [1, 2], [1, 2]]}), {}, {}, choices=2)
    assert (choices.lengths.tolist(), choices.mean_length, len(choices)) == ([3, 2], 4.0, 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_choices_of_a_row_are_side_by_side(side: Literal["left", "right"]) -> None:
    ids = [[1], [2, 3], [4, 5, 6], [7], [8, 9], [10, 11]]
    encoded = EncodedSplit(compact({"input_ids": ids}), {"labels": torch.tensor([5, 6, 7])}, {"input_ids": -1}, side,
                           choices=2)

    def padded(row: list[int], padding: int) -> list[int]:
        fill = [padding] * (2 - len(row))
        return [*fill, *row] if side == "left" else [*row, *fill]

    batch = encoded.batch([2, 0])
    assert batch["input_ids"].tolist() == [[padded(row, -1) for row in ids[4:]], [padded(row, -1) for row in ids[:2]]]
    assert batch["attention_mask"].tolist() == [[[1, 1], [1, 1]], [padded([1], 0), [1, 1]]]
    assert batch["labels"].tolist() == [7, 5]


def test_a_tokenizer_says_how_its_rows_are_padded(encoder: str) -> None:
    tokenizer = load_tokenizer(encoder)
    tokenizer.padding_side, tokenizer.pad_token = "left", "[MASK]"
    tokens = {"input_ids": [[1], [1, 2]], "labels": [[3], [4, 5]], "logits_mask": [[1], [1, 1]]}
    batch = EncodedSplit.of(tokenizer, tokens, {}).batch([0, 1])
    assert {name: values[0].tolist() for name, values in batch.items()} == {
        "input_ids": [4, 1], "labels": [-100, 3], "logits_mask": [0, 1], "attention_mask": [0, 1]}


def test_rows_may_hold_several_numbers() -> None:
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    batch = EncodedSplit(compact({"input_ids": [[1], [1, 2]]}), {"labels": labels}, {}).batch([1])
    assert batch["labels"].equal(labels[[1]])


def test_a_change_sees_the_batch_its_rows_and_the_epoch() -> None:
    seen = []

    def change(batch: dict[str, torch.Tensor], rows: Sequence[int], epoch: int | None) -> dict[str, torch.Tensor]:
        seen.append((batch["input_ids"].tolist(), list(rows), epoch))
        return {"input_ids": batch["input_ids"] + 1}

    encoded = EncodedSplit(compact({"input_ids": [[1], [2]]}), {}, {}, change=change)
    assert encoded.batch([1])["input_ids"].tolist() == [[3]]
    order = BucketSampler(encoded.lengths, batch_size=1, seed=0, shuffle=False)
    order.set_epoch(3)
    batches = iter(BucketLoader(encoded, order))
    order.set_epoch(4)
    assert [batch["input_ids"].tolist() for batch in batches] == [[[2]], [[3]]]
    assert seen == [([[2]], [1], None), ([[1]], [0], 3), ([[2]], [1], 3)]


def test_two_sides_hold_the_same_rows_and_go_by_the_student_s_length() -> None:
    student, teacher = split(6), split(6, "left", False)
    both = TwoSided(student, teacher)
    batch = both.batch([4, 1])
    assert len(both) == 6 and both.lengths.tolist() == student.lengths.tolist()
    for side, rows in (("student", student), ("teacher", teacher)):
        assert {k: v.tolist() for k, v in batch[side].items()} == {k: v.tolist() for k, v in rows.batch([4, 1]).items()}
    source = LoaderSource(BucketLoader(both, BucketSampler(both.lengths, batch_size=4, seed=0, shuffle=False)))
    first = next(iter(source.epoch(0, 0)))
    assert set(first.student) - set(first.teacher) == {"token_type_ids"}


def test_the_training_loop_moves_the_loader_from_epoch_to_epoch() -> None:
    encoded = split(50)
    loader = BucketLoader(encoded, sampler(50))
    source = LoaderSource(loader)
    assert source.num_batches == len(loader) == 13
    epochs = [[batch.student["labels"].tolist() for batch in source.epoch(number, 2)] for number in (0, 1, 0)]
    assert epochs[0] == epochs[2] == list(sampler(50))[2:]
    assert epochs[1] == list(sampler(50, epoch=1))[2:]


def test_ranks_share_the_batches_and_agree_on_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(sampler(50))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        shares.append(list(sampler(50)))
        assert len(sampler(50)) == 5
    assert [len(share) for share in shares] == [5, 4, 4]
    assert [shares[i % 3][i // 3] for i in range(13)] == whole


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="a batch size of 0"):
        sampler(5, batch_size=0)
