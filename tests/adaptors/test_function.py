"""The paper's adaptor: a plain function of the batch and the model's outputs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.adaptors import FunctionAdaptor, Signals
from stillhouse.errors import OutputError
from stillhouse.types import ALL_LOGITS, ATTENTION_SCORES, LABELS, LOGITS, USER_LOSSES, Key

NOTHING: frozenset[Key] = frozenset()
BATCH = {"x": torch.arange(6.0).reshape(2, 3)}
LAYERS = [torch.full((2, 3, 4), float(layer)) for layer in range(3)]
WIDE = torch.zeros(2, 3, 5)


class Double(nn.Module):
    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return 2 * x + shift


def adapt(results: Any, *keys: Key) -> Signals:
    return FunctionAdaptor(lambda batch, outputs: results).adapt(BATCH, None, frozenset(keys))


def test_the_function_sees_the_batch_and_the_outputs() -> None:
    adaptor = FunctionAdaptor(lambda batch, outputs: {"logits": outputs - batch["x"]})
    assert adaptor.run(Double(), BATCH, frozenset({LOGITS}), {"shift": 1.0}).features[LOGITS].equal(BATCH["x"] + 1)
    tuples = FunctionAdaptor(lambda batch, outputs: {"logits": outputs - batch[0]})
    assert tuples.run(Double(), (BATCH["x"],), frozenset({LOGITS}), {}).features[LOGITS].equal(BATCH["x"])


def test_what_is_asked_for_is_taken() -> None:
    results = {"logits": WIDE, "hidden": LAYERS, "attention": LAYERS, "losses": torch.ones(2)}
    keys = {LOGITS, Key("hidden", 0), Key("hidden", -1), Key("attention", 1)}
    features = adapt(results, *keys).features
    assert set(features) == keys
    assert features[Key("hidden", -1)] is LAYERS[2] and features[Key("attention", 1)] is LAYERS[1]


def test_one_logits_tensor_is_head_zero_and_a_list_is_every_head() -> None:
    one, two = torch.zeros(2, 5), torch.ones(2, 3)
    assert set(adapt({"logits": one}, ALL_LOGITS).features) == {LOGITS}
    both = adapt({"logits": [one, two]}, ALL_LOGITS).features
    assert both == {LOGITS: one, Key("logits", 1): two}
    assert adapt({"logits": (one, two)}, Key("logits", 1)).features == {Key("logits", 1): two}


def test_one_mask_serves_every_head_and_a_list_one_each() -> None:
    heads, mask, other = [WIDE, WIDE + 1], torch.tensor([[1, 1, 0], [1, 0, 0]]), torch.tensor([[1, 0, 0], [1, 1, 1]])
    for given in (mask, [mask]):
        masks = adapt({"logits": heads, "logits_mask": given}, ALL_LOGITS).masks
        assert masks["logits"] is mask and masks["logits.1"] is mask
    masks = adapt({"logits": heads, "logits_mask": [mask, other]}, ALL_LOGITS).masks
    assert masks["logits"] is mask and masks["logits.1"] is other


def test_losses_are_averaged_and_added() -> None:
    losses = [torch.tensor([1.0, 3.0]), torch.tensor(10.0)]
    assert adapt({"losses": losses}, USER_LOSSES).features[USER_LOSSES].item() == 12.0
    assert adapt({"losses": losses[0]}, USER_LOSSES).features[USER_LOSSES].item() == 2.0
    assert USER_LOSSES not in adapt({"losses": []}, USER_LOSSES).features
    assert USER_LOSSES not in adapt({"losses": losses}).features


def test_labels_come_with_their_mask_though_nobody_asked() -> None:
    labels = torch.tensor([[1, -100, 2], [-100, -100, 0]])
    signals = adapt({"losses": torch.tensor(1.0), "labels": labels}, USER_LOSSES)
    assert signals.features[LABELS] is labels
    assert signals.masks["labels"].tolist() == labels.ge(0).tolist() == signals.masks["losses"].tolist()


def test_masks_of_the_function_reach_the_losses() -> None:
    mask = torch.tensor([[1, 0, 0], [1, 1, 0]])
    signals = adapt({"hidden": LAYERS, "inputs_mask": mask}, Key("hidden", 1))
    assert signals.masks["inputs"] is mask
    assert adapt({"hidden": LAYERS}, Key("hidden", 1)).masks["inputs"].all()


def test_declared_masks_are_those_that_a_run_returns() -> None:
    def masks(batch: Any) -> dict[str, Any]:
        return {"inputs_mask": batch["x"].gt(1), "logits_mask": batch["x"].gt(2), "labels_mask": batch["x"].gt(3)}

    adaptor = FunctionAdaptor(lambda batch, outputs: {"logits": WIDE, "logits_mask": torch.ones(2, 3)}, masks=masks)
    declared, found = adaptor.masks(BATCH), adaptor.run(Double(), BATCH, frozenset({LOGITS}), {}).masks
    assert adaptor.declares_masks and not FunctionAdaptor(lambda batch, outputs: {}).declares_masks
    assert {k: v.tolist() for k, v in declared.items()} == {k: v.tolist() for k, v in found.items()}
    assert found["logits"].tolist() == BATCH["x"].gt(2).tolist()


def test_declared_masks_of_logits_may_be_a_list() -> None:
    one, two = torch.ones(2, 3), torch.zeros(2, 1)
    adaptor = FunctionAdaptor(lambda batch, outputs: {}, masks=lambda batch: {"logits_mask": [one]})
    assert adaptor.masks(BATCH)["logits"] is one
    adaptor = FunctionAdaptor(lambda batch, outputs: {}, masks=lambda batch: {"logits_mask": [one, two]})
    assert adaptor.masks(BATCH)["logits"] is one and adaptor.masks(BATCH)["logits.1"] is two


def test_masks_that_were_not_declared_cannot_be_asked_for() -> None:
    with pytest.raises(NotImplementedError, match="FunctionAdaptor does not declare its masks"):
        FunctionAdaptor(lambda batch, outputs: {}).masks(BATCH)


def test_an_unknown_key_is_reported_once_with_the_nearest_known_one() -> None:
    adaptor = FunctionAdaptor(lambda batch, outputs: {"logit": WIDE, "logits": WIDE})
    with pytest.warns(UserWarning, match=r"unknown adaptor key 'logit': did you mean 'logits'\?.*it is ignored"):
        adaptor.adapt(BATCH, None, frozenset({LOGITS}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adaptor.adapt(BATCH, None, frozenset({LOGITS}))


def test_every_documented_key_is_known() -> None:
    results = {"logits": WIDE, "logits_mask": torch.ones(2, 3), "inputs_mask": torch.ones(2, 3), "hidden": LAYERS,
               "attention": LAYERS, "losses": torch.tensor(1.0), "labels": torch.zeros(2, 3),
               "labels_mask": torch.ones(2, 3)}
    assert {LOGITS, USER_LOSSES} <= set(adapt(results, LOGITS, USER_LOSSES).features)  # and no warning


@pytest.mark.parametrize(("results", "key", "message"), [
    ({"logits": WIDE}, Key("hidden", 1), r"hidden\[1\], but the adaptor returned no 'hidden': it gave 'logits'"),
    ({}, Key("attention", 0), "it gave nothing"),
    ({"hidden": LAYERS}, Key("hidden", 3), "list has 3 entries, 0 to 2"),
    ({"hidden": LAYERS}, Key("hidden", -4), "list has 3 entries, 0 to 2"),
    ([WIDE], LOGITS, "the adaptor returned list, not a dictionary"),
])
def test_what_was_promised_and_not_given_is_named(results: Any, key: Key, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        adapt(results, key)


def named(batch: Any, outputs: Any) -> dict[str, Any]:
    return {}


def test_only_a_version_names_a_function_across_processes() -> None:
    assert FunctionAdaptor(named).fingerprint is None
    first, second = FunctionAdaptor(named, version="1").fingerprint, FunctionAdaptor(named, version="2").fingerprint
    assert first == "function/1 named 1" and second == "function/1 named 2"


def test_attention_scores_are_the_adaptors_attention() -> None:
    key = Key("attention_scores", 1)
    assert adapt({"attention": LAYERS}, key).features == {key: LAYERS[1]}
    with pytest.raises(OutputError, match=r"matches attention\[3\], but the adaptor's 'attention' list has 3 entries"):
        adapt({"attention": LAYERS}, Key("attention_scores", 3))


def test_probabilities_in_the_place_of_scores_are_said_at_the_first_look_only() -> None:
    maps = torch.randn(2, 1, 3, 3).softmax(dim=-1)
    keys = frozenset({Key("attention_scores", 0)})
    adaptor = FunctionAdaptor(lambda batch, outputs: {"attention": [maps]})
    adaptor.adapt(BATCH, None, frozenset({Key("attention", 0)}))  # a loss of the user's own may well want probabilities
    with pytest.warns(UserWarning, match=r"attention\[0\] holds probabilities .*clamp_min\(1e-30\).log\(\)"):
        adaptor.adapt(BATCH, None, keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adaptor.adapt(BATCH, None, keys)
        for harmless in (maps.log(), maps * 2, maps - 0.1):
            FunctionAdaptor(lambda batch, outputs, m=harmless: {"attention": [m]}).adapt(BATCH, None, keys)


def test_every_labels_tensor_of_a_list_belongs_to_its_head() -> None:
    start, end = torch.tensor([0, 1]), torch.tensor([2, -100])
    features = adapt({"logits": [WIDE[:, 0], WIDE[:, 1]], "labels": [start, end]}, ALL_LOGITS, LABELS).features
    assert features[LABELS] is start and features[Key("labels", 1)] is end


def test_a_declared_mask_serves_every_head() -> None:
    mask = torch.tensor([[1], [0]])
    adaptor = FunctionAdaptor(lambda batch, outputs: {"logits": [outputs, outputs]},
                              masks=lambda batch: {"logits_mask": mask})
    _, masks = adaptor.adapt(torch.zeros(2, 3), torch.zeros(2, 3), frozenset({Key("logits")}))
    assert masks["logits"] is mask and masks["logits.1"] is mask


def test_a_feature_of_the_users_own_is_no_unknown_key() -> None:
    adaptor = FunctionAdaptor(lambda batch, outputs: {"pooled": [outputs]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features, masks = adaptor.adapt(None, torch.ones(2, 5), frozenset({Key("pooled", 0)}))
    assert features[Key("pooled", 0)].shape == (2, 5) and masks["inputs"].shape == (2, 1)


def test_probabilities_are_seen_beside_padding_that_has_none() -> None:
    maps = torch.rand(2, 2, 4, 4).softmax(-1)
    maps[:, :, 3] = 0
    adaptor = FunctionAdaptor(lambda batch, outputs: {"attention": [outputs]})
    with pytest.warns(UserWarning, match="holds probabilities"):
        adaptor.adapt(None, maps, frozenset({Key(ATTENTION_SCORES, 0)}))
