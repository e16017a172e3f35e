"""What adaptors share: calling models, and masks from features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.adaptors.base import call_model, labels_mask, masks_from_features
from stillhouse.types import LABELS, LOGITS, USER_LOSSES, Key

SECOND = Key("logits", 1)


class Recorder(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


@pytest.mark.parametrize(("inputs", "args", "kwargs"), [
    ({"a": 1}, (), {"a": 1, "more": 2}), ((1, 3), (1, 3), {"more": 2}), ([1, 3], (1, 3), {"more": 2}),
    (7, (7,), {"more": 2}),
])
def test_inputs_are_passed_by_name_or_in_order(inputs: Any, args: Any, kwargs: Any) -> None:
    assert call_model(Recorder(), inputs, {"more": 2}) == (args, kwargs)


def test_labels_below_zero_do_not_count() -> None:
    assert labels_mask(torch.tensor([[0, -100], [3, -1]])).tolist() == [[True, False], [True, False]]
    assert labels_mask(torch.tensor([2, -100])).tolist() == [[True], [False]]


def shapes(masks: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(mask.shape) for name, mask in masks.items()}


def test_without_a_mask_every_position_counts() -> None:
    features = {LOGITS: torch.zeros(2, 3, 5), SECOND: torch.zeros(2, 4), Key("hidden", 1): torch.zeros(2, 3, 8)}
    masks = masks_from_features(features, {})
    assert shapes(masks) == {"logits": (2, 3), "logits.1": (2, 1), "inputs": (2, 3)}
    assert all(mask.all() for mask in masks.values())


@pytest.mark.parametrize(("key", "shape", "mask"), [
    (Key("hidden", 0), (2, 3, 8), (2, 3)), (Key("hidden", 0), (2, 8), (2, 1)),
    (Key("attention", 0), (2, 4, 3, 3), (2, 3)),
])
def test_positions_are_those_of_hidden_states_or_attention_maps(key: Key, shape: Any, mask: Any) -> None:
    assert shapes(masks_from_features({key: torch.zeros(shape)}, {})) == {"inputs": mask}


def test_given_masks_are_kept() -> None:
    given = {"inputs": torch.tensor([[1, 0, 1]]), "logits": torch.tensor([[1, 1, 0]]),
             "labels": torch.tensor([[0, 1, 1]])}
    features = {LOGITS: torch.zeros(1, 3, 5), LABELS: torch.tensor([[1, 2, 3]])}
    found = masks_from_features(features, given)
    assert set(found) == set(given) and all(found[name] is mask for name, mask in given.items())


def test_a_mask_of_rows_counts_for_logits_per_row_and_a_mask_of_tokens_does_not() -> None:
    def mask_for(given: Tensor) -> list[list[bool]]:
        return masks_from_features({LOGITS: torch.zeros(2, 5)}, {"logits": given})["logits"].bool().tolist()

    assert mask_for(torch.tensor([[1], [0]])) == [[True], [False]]
    assert mask_for(torch.tensor([[1, 1, 0], [0, 0, 0]])) == [[True], [True]]


def test_a_user_s_losses_are_over_labels_or_given_rows_or_all_rows() -> None:
    losses = {USER_LOSSES: torch.tensor(1.0)}
    labelled = masks_from_features({**losses, LABELS: torch.tensor([1, -100, 2])}, {})
    assert labelled["losses"].tolist() == [[True], [False], [True]]
    given = torch.tensor([[1], [0], [0]])
    assert masks_from_features(losses, {"losses": given})["losses"] is given
    assert masks_from_features({**losses, LOGITS: torch.zeros(3, 2, 5)}, {})["losses"].tolist() == [[True]] * 3
    assert masks_from_features(losses, {})["losses"].tolist() == [[True]]
