"""Promises of the classification metrics, against hand-written counts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from stillhouse.errors import DataError, OutputError
from stillhouse.metrics import accuracy, agreement, classification_metrics, macro_f1, multi_label_metrics


def naive_macro_f1(predictions: list[int], labels: list[int]) -> float:
    """Mean over occurring classes of 2 tp / (2 tp + fp + fn)."""
    scores = []
    for c in sorted(set(predictions) | set(labels)):
        pairs = list(zip(predictions, labels, strict=True))
        right = sum(p == c and t == c for p, t in pairs)
        wrong = sum((p == c) != (t == c) for p, t in pairs)
        scores.append(2 * right / (2 * right + wrong))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_counting_by_hand(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, 6, generator=generator)
    labels = torch.randint(0, 5, (40,), generator=generator)
    predictions = [max(range(6), key=row.__getitem__) for row in logits.tolist()]
    found = classification_metrics(logits, labels)
    assert set(found) == {"accuracy", "macro_f1"}
    right = sum(p == t for p, t in zip(predictions, labels.tolist(), strict=True))
    assert found["accuracy"] == pytest.approx(right / 40)
    assert found["macro_f1"] == pytest.approx(naive_macro_f1(predictions, labels.tolist()))


def test_classes_that_do_not_occur_leave_macro_f1_alone() -> None:
    assert macro_f1([0, 1, 1], [0, 1, 1], num_labels=150) == 1.0


def test_a_class_that_is_only_predicted_or_only_labelled_counts_as_zero() -> None:
    assert macro_f1([0, 0, 2], [0, 0, 1], num_labels=3) == pytest.approx(1 / 3)


def test_tensors_lists_and_half_precision_logits_give_the_same() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([1, 0, 0])
    assert classification_metrics(logits.bfloat16(), labels) == classification_metrics(logits, labels)
    assert accuracy([1, 0, 1], [1, 0, 0]) == accuracy(logits.argmax(-1), labels) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("label", "message"), [
    (-100, "label -100 is outside 0 to 1 .1 of 2 rows.: leave out rows without a label"),
    (2, "label 2 is outside 0 to 1"),
])
def test_a_label_outside_the_range_is_refused(label: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classification_metrics(torch.zeros(2, 2), torch.tensor([0, label]))


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 0]), torch.tensor([[0], [1]])])
def test_unequal_numbers_of_predictions_and_labels_are_refused(labels: Tensor) -> None:
    with pytest.raises(DataError, match="must be as many"):
        accuracy([0, 1], labels)


def test_no_rows_have_no_score() -> None:
    with pytest.raises(DataError, match="no rows to score"):
        classification_metrics(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))


def test_logits_of_tokens_are_refused() -> None:
    with pytest.raises(OutputError, match=r"\(rows, labels\), got \(2, 3, 4\)"):
        classification_metrics(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))


def test_agreement_is_the_share_of_equal_answers_whatever_the_scale() -> None:
    student = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 1.0], [5.0, 0.0]])
    assert agreement(student, student * 10 + 3) == 1.0
    assert agreement(student, student * torch.tensor([[-1.0], [1.0], [1.0], [1.0]])) == 0.75


def test_agreement_of_different_label_sets_is_refused() -> None:
    with pytest.raises(OutputError, match=r"\(2, 3\) of the student and \(2, 4\) of the teacher"):
        agreement(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("seed", range(5))
def test_multi_label_metrics_equal_scikit_learn_and_counting_by_hand(seed: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(40, 4, generator=generator) < 0.3).float()
    logits = labels - 0.5 + 0.4 * torch.randn(40, 4, generator=generator)
    found = multi_label_metrics(logits, labels)
    wanted, predicted = labels.int().numpy(), (torch.sigmoid(logits) > 0.5).int().numpy()
    assert found == pytest.approx({
        "micro_f1": f1_score(wanted, predicted, average="micro"),
        "macro_f1": f1_score(wanted, predicted, average="macro"),
        "subset_accuracy": accuracy_score(wanted, predicted)})
    rows = list(zip(predicted.tolist(), wanted.tolist(), strict=True))
    assert found["subset_accuracy"] == pytest.approx(sum(a == b for a, b in rows) / 40)
    assert 0 < found["subset_accuracy"] < found["micro_f1"] < 1


def test_multi_label_classes_that_do_not_occur_leave_macro_f1_alone() -> None:
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    logits = torch.tensor([[2.0, -1.0, -1.0], [2.0, 0.0, -3.0]])
    assert multi_label_metrics(logits, labels) == pytest.approx(
        {"micro_f1": 4 / 5, "macro_f1": 1 / 2, "subset_accuracy": 1 / 2})
    assert multi_label_metrics(-torch.ones(2, 3), torch.zeros(2, 3)) == {
        "micro_f1": 0.0, "macro_f1": 0.0, "subset_accuracy": 1.0}


def test_multi_label_metrics_of_one_class_count_its_positives() -> None:
    found = multi_label_metrics(torch.tensor([[1.0], [-1.0], [1.0]]), torch.tensor([[1], [0], [0]]))
    assert found == pytest.approx({"micro_f1": 2 / 3, "macro_f1": 2 / 3, "subset_accuracy": 2 / 3})


@pytest.mark.parametrize(("logits", "labels", "error", "message"), [
    (torch.zeros(2), torch.zeros(2), OutputError, r"logits of \(rows, labels\), got \(2,\)"),
    (torch.zeros(2, 3), torch.zeros(2), DataError, r"labels \(2,\) must be of the shape of the logits, \(2, 3\)"),
    (torch.zeros(0, 3), torch.zeros(0, 3), DataError, "no rows to score"),
    (torch.zeros(1, 2), torch.tensor([[1, -100]]), DataError, "label -100 is neither 0 nor 1 .1 of 2 labels."),
])
def test_multi_labels_that_do_not_fit_are_refused(
        logits: Tensor, labels: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        multi_label_metrics(logits, labels)


def test_importing_the_metrics_does_not_load_scikit_learn() -> None:
    script = "import sys, stillhouse.metrics; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
