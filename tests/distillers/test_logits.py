"""What a configuration says about logits: probability shift, temperature strategies, caching."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse import DistillationConfig, MultiTeacherDistiller
from stillhouse.errors import OutputError

from .toys import (
    Endless,
    Reading,
    adaptor,
    basic,
    batches,
    general,
    kd,
    logits_only,
    sgd,
    student,
    tconf,
    teacher,
    token_batch,
    weights,
)


def swapped(logits: Tensor, labels: Tensor) -> Tensor:
    """By hand, row by row: the label's logit changes places with the largest; negative labels change nothing."""
    out = logits.detach().clone()
    flat, flat_labels = out.view(-1, out.shape[-1]), labels.reshape(-1).tolist()
    for row, label in zip(flat, flat_labels, strict=True):
        if label >= 0:
            top = int(row.argmax())
            a, b = float(row[label]), float(row[top])
            row[label], row[top] = b, a
    return out


# Probability shift


def test_the_teacher_is_right_about_every_row_after_the_shift(tmp_path: Path) -> None:
    def with_labels(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"], "labels": batch[1]}

    distiller = basic(tmp_path, logits_only, with_labels, probability_shift=True)
    x, labels = batches(1, rows=40)[0]
    s, t = distiller.model_S(x)["logits"], distiller.model_T(x)["logits"]
    wanted = swapped(t, labels)
    assert not torch.equal(t, wanted) and torch.equal(wanted.argmax(-1), labels)
    torch.testing.assert_close(distiller.train_on_batch((x, labels))[0], kd(s, wanted).mean())


@pytest.mark.parametrize("masked", [False, True])
def test_ignored_labels_and_masked_positions_are_not_shifted(tmp_path: Path, masked: bool) -> None:
    def with_labels(batch: Any, out: Any) -> dict[str, Any]:
        found = {"logits": out["tokens"], "labels": batch["labels"]}
        return found | {"logits_mask": batch["mask"]} if masked else found

    batch = token_batch(rows=9)
    assert bool((batch["labels"] == -100).any())
    distiller = basic(tmp_path, with_labels, with_labels, model=Reading, probability_shift=True)
    s, t = distiller.model_S(batch["x"])["tokens"], distiller.model_T(batch["x"])["tokens"]
    kept = batch["mask"].bool() if masked else torch.ones_like(batch["mask"]).bool()
    wanted = kd(s, swapped(t, batch["labels"]))[kept].mean()
    torch.testing.assert_close(distiller.train_on_batch(batch)[0], wanted)


def test_a_label_that_is_no_class_is_refused_only_where_it_counts(tmp_path: Path) -> None:
    def with_labels(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["tokens"], "labels": batch["gold"], "logits_mask": batch["mask"]}

    batch = token_batch()
    labels = batch.pop("labels")
    distiller = basic(tmp_path, with_labels, with_labels, model=Reading, probability_shift=True)
    total, _ = distiller.train_on_batch(batch | {"gold": labels})
    padded = labels.masked_fill(batch["mask"] == 0, 99)
    torch.testing.assert_close(distiller.train_on_batch(batch | {"gold": padded})[0], total)
    with pytest.raises(OutputError, match="label 99 is none of the 3 classes"):
        distiller.train_on_batch(batch | {"gold": torch.full_like(labels, 99)})


def test_each_head_is_shifted_by_its_own_labels(tmp_path: Path) -> None:
    def span(batch: Any, out: Any) -> dict[str, Any]:
        """Start and end: a class is a position, as in span extraction."""
        return {"logits": [out["tokens"][..., 0], out["tokens"][..., 1]], "labels": [batch["start"], batch["end"]]}

    batch = token_batch()
    batch |= {"start": torch.tensor([0, 1, 2, 3, 4, -100]), "end": torch.tensor([4, 4, 4, 3, 2, 1])}
    distiller = basic(tmp_path, span, span, model=Reading, probability_shift=True)
    s, t = distiller.model_S(batch["x"])["tokens"], distiller.model_T(batch["x"])["tokens"]
    wanted = sum(kd(s[..., i], swapped(t[..., i].contiguous(), batch[name])).mean()
                 for i, name in enumerate(("start", "end")))
    torch.testing.assert_close(distiller.train_on_batch(batch)[0], wanted)


@pytest.mark.parametrize("make", [basic, general])
def test_missing_labels_are_named(tmp_path: Path, make: Any) -> None:
    def one_of_two(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": [out["logits"], out["logits"]], "labels": [batch[1]]}

    for of_student in (adaptor, one_of_two):
        distiller = make(tmp_path, of_student, of_student, probability_shift=True)
        with pytest.raises(OutputError, match="'unweighted_kd_loss' needs the student's labels"):
            distiller.train_on_batch(batches()[0])


# Temperature strategies


def by_hand(name: str, s: Tensor, t: Tensor, base: float) -> Tensor:
    """The temperature of each of N predictions, one after the other."""
    values = []
    for a, b in zip(s.detach(), t.detach(), strict=True):
        if name == "flsw":  # [flsw, 1, 2]: beta 1, gamma 2
            values.append((1 - float(a @ b) / ((float(a.norm()) + 1e-4) * (float(b.norm()) + 1e-4))) ** 2)
        else:  # [cwsm, 0.5]
            values.append(1 / (float(a.softmax(0).max()) + 1e-3))
    w = torch.tensor(values, dtype=s.dtype)
    return base + (1.0 if name == "flsw" else 0.5) * (w.mean() - w)


STRATEGIES = [("flsw", ["flsw", 1, 2]), ("flsw", ["flsw", {"beta": 1, "gamma": 2}]), ("cwsm", ["cwsm", 0.5])]


@pytest.mark.parametrize(("name", "choice"), STRATEGIES, ids=str)
def test_a_strategy_gives_every_row_its_temperature(tmp_path: Path, name: str, choice: Any) -> None:
    distiller = basic(tmp_path, temperature=3, temperature_scheduler=choice)
    x, labels = batches()[0]
    s, t = distiller.model_S(x)["logits"], distiller.model_T(x)["logits"]
    tau = by_hand(name, s, t, 3).unsqueeze(-1)
    assert float(tau.std()) > 1e-3
    total, _ = distiller.train_on_batch((x, labels))
    wanted = -((t / tau).softmax(-1) * (s / tau).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(total, wanted)
    parameter = distiller.model_S.out.weight
    torch.testing.assert_close(*(torch.autograd.grad(loss, [parameter])[0] for loss in (total, wanted)))


@pytest.mark.parametrize(("name", "choice"), STRATEGIES, ids=str)
def test_a_strategy_sees_the_kept_positions_alone(tmp_path: Path, name: str, choice: Any) -> None:
    def masked(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["tokens"], "logits_mask": batch["mask"]}

    batch = token_batch()
    kept = batch["mask"].bool()
    distiller = basic(tmp_path, masked, masked, model=Reading, temperature=3, temperature_scheduler=choice)
    s, t = distiller.model_S(batch["x"])["tokens"][kept], distiller.model_T(batch["x"])["tokens"][kept]
    tau = by_hand(name, s, t, 3).unsqueeze(-1)
    total, _ = distiller.train_on_batch(batch)
    torch.testing.assert_close(total, -((t / tau).softmax(-1) * (s / tau).log_softmax(-1)).sum(-1).mean())


def test_a_strategy_looks_at_the_shifted_teacher(tmp_path: Path) -> None:
    def with_labels(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"], "labels": batch[1]}

    distiller = basic(tmp_path, with_labels, with_labels, temperature_scheduler=["flsw", 1, 2], probability_shift=True)
    x, labels = batches()[0]
    s, t = distiller.model_S(x)["logits"], swapped(distiller.model_T(x)["logits"], labels)
    tau = by_hand("flsw", s, t, 4).unsqueeze(-1)
    total, _ = distiller.train_on_batch((x, labels))
    torch.testing.assert_close(total, -((t / tau).softmax(-1) * (s / tau).log_softmax(-1)).sum(-1).mean())


@pytest.mark.parametrize("choice", ["none", "constant", None])
def test_no_strategy_and_the_constant_one_are_the_temperature(tmp_path: Path, choice: Any) -> None:
    data = batches(4)
    distiller = basic(tmp_path, temperature=3, temperature_scheduler=choice,
                      training={"gradient_accumulation_steps": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller.train(sgd(distiller.model_S), data, num_epochs=1)
    plain = basic(tmp_path, temperature=3, training={"gradient_accumulation_steps": 2})
    plain.train(sgd(plain.model_S), data, num_epochs=1)
    assert torch.equal(weights(distiller.model_S), weights(plain.model_S))


def test_a_strategy_under_accumulation_warns_that_rows_are_related(tmp_path: Path) -> None:
    distiller = basic(tmp_path, temperature_scheduler=["flsw", 1, 2], training={"gradient_accumulation_steps": 2})
    with pytest.warns(UserWarning, match="unweighted_kd_loss: rows of a micro-batch are related"):
        distiller.train(sgd(distiller.model_S), batches(2), num_epochs=1)


# Caching


@pytest.mark.parametrize("length", [{"num_epochs": 3}, {"num_steps": 10}])
def test_cached_logits_ask_the_teacher_once_however_often_one_trains(tmp_path: Path, length: dict[str, int]) -> None:
    found = []
    for caching in (False, True):
        distiller = basic(tmp_path, is_caching_logits=caching)
        results = [distiller.train(sgd(distiller.model_S), batches(4), **length) for _ in range(2)]
        steps = 12 if "num_epochs" in length else 10
        assert [result.steps for result in results] == [steps, steps], "caching does not multiply the data"
        assert len(distiller.model_T.calls) == (4 if caching else 2 * steps)
        found.append(weights(distiller.model_S))
    torch.testing.assert_close(*found)


def test_several_cached_teachers_are_asked_once_each(tmp_path: Path) -> None:
    found = []
    for caching in (False, True):
        teachers = [teacher(1), teacher(3)]
        distiller = MultiTeacherDistiller(tconf(tmp_path), DistillationConfig(is_caching_logits=caching), teachers,
                                          student(), adaptor, adaptor, teacher_weights=[1, 2])
        for _ in range(2):
            distiller.train(sgd(distiller.model_S), batches(3), num_epochs=2)
        assert [len(model.calls) for model in teachers] == ([3, 3] if caching else [12, 12])
        found.append(weights(distiller.model_S))
    torch.testing.assert_close(*found)


def test_a_cache_serves_batches_with_a_side_each_and_loaders_without_a_length(tmp_path: Path) -> None:
    given = [{"teacher": {"x": x}, "student": (x, labels)} for x, labels in batches(3)]
    found = []
    for caching in (False, True):
        distiller = basic(tmp_path, is_caching_logits=caching)
        distiller.train(sgd(distiller.model_S), Endless(given), num_epochs=2)
        found.append(weights(distiller.model_S))
        assert len(distiller.model_T.calls) == (3 if caching else 6)
    torch.testing.assert_close(*found)


def test_the_cache_follows_rows_and_not_batches(tmp_path: Path) -> None:
    rows = [(x[i], labels[i]) for x, labels in batches(2) for i in range(6)]
    distiller = basic(tmp_path, is_caching_logits=True)
    loader: Any = torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True)  # type: ignore[arg-type]
    distiller.train(sgd(distiller.model_S), loader, num_epochs=3)
    assert len(distiller.model_T.calls) == 3


def test_a_shift_never_changes_what_is_cached(tmp_path: Path) -> None:
    """The same rows with other labels: a cache that had kept shifted logits would give another loss."""
    def with_labels(batch: Any, out: Any) -> dict[str, Any]:
        return {"logits": out["logits"], "labels": batch["labels"]}

    x, labels = batches()[0]
    cached = basic(tmp_path, with_labels, with_labels, probability_shift=True, is_caching_logits=True)
    for given in (labels, (labels + 1) % 3, labels):
        live = basic(tmp_path, with_labels, with_labels, probability_shift=True)
        batch = {"teacher": {"x": x, "labels": labels}, "student": {"x": x, "labels": given}}
        torch.testing.assert_close(cached.train_on_batch(batch)[0], live.train_on_batch(batch)[0])
    assert len(cached.model_T.calls) == 1


def test_extra_arguments_are_part_of_what_is_cached(tmp_path: Path) -> None:
    cached = basic(tmp_path, is_caching_logits=True)
    for args in ({}, {"scale": 2.0}, {}):
        wanted, _ = basic(tmp_path).train_on_batch(batches()[0], args)
        torch.testing.assert_close(cached.train_on_batch(batches()[0], args)[0], wanted)
    assert len(cached.model_T.calls) == 2
