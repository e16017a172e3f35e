"""The adaptor by module path: hooks that live for one forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.adaptors import FunctionAdaptor, ModuleOutputs, ModulePathAdaptor
from stillhouse.errors import OutputError, PlanError
from stillhouse.types import ALL_LOGITS, LABELS, LOGITS, USER_LOSSES, Key, module_key

IDS = torch.tensor([[1, 2, 3], [4, 5, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


class Attending(nn.Module):
    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        weights = (states @ states.transpose(1, 2)).softmax(dim=-1)
        return weights @ states, weights


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend, self.weights = Attending(), nn.Identity()

    def forward(self, states: Tensor) -> tuple[Tensor, None]:
        mixed, weights = self.attend(states)
        self.weights(weights)
        return states + mixed, None


class Model(nn.Module):
    def __init__(self, wrap: Any = lambda logits: logits, fail: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(6, 4)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(4, 5)
        self.wrap, self.fail = wrap, fail

    def forward(self, input_ids: Tensor, attention_mask: Any = None, scale: float = 1.0) -> Any:
        states = self.embedding(input_ids)
        for layer in self.layers:
            states, _ = layer(states)
        if self.fail:
            raise RuntimeError("out of memory")
        return self.wrap(self.head(states) * scale)


ADAPTOR = ModulePathAdaptor(hidden=["embedding", "layers.0", "layers.1"],
                            attention=["layers.0.weights", "layers.1.weights"])


def num_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_outputs_of_named_modules_are_hidden_states() -> None:
    model = Model()
    keys = frozenset({LOGITS, *(Key("hidden", layer) for layer in range(3)), Key("attention", 1)})
    features = ADAPTOR.run(model, {"input_ids": IDS}, keys, {}).features
    embedded = model.embedding(IDS)
    first, _ = model.layers[0](embedded)
    second, _ = model.layers[1](first)
    assert features[Key("hidden", 0)].equal(embedded)
    assert features[Key("hidden", 1)].equal(first) and features[Key("hidden", 2)].equal(second)
    assert features[Key("attention", 1)].equal((first @ first.transpose(1, 2)).softmax(dim=-1))
    assert features[LOGITS].equal(model.head(second))


def test_only_what_is_asked_for_is_hooked() -> None:
    model = Model()
    seen: list[int] = []
    model.head.register_forward_pre_hook(lambda module, args: seen.append(num_hooks(model)))
    several = {LOGITS, Key("hidden", 0), Key("attention", 0)}
    for keys, expected in (({LOGITS}, 0), ({Key("hidden", 1)}, 1), (several, 2)):
        features = ADAPTOR.run(model, (IDS,), frozenset(keys), {}).features
        assert seen.pop() == expected and set(features) == keys
        assert num_hooks(model) == 0


def test_hooks_are_gone_after_an_exception_too() -> None:
    model = Model(fail=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        ADAPTOR.run(model, (IDS,), frozenset({Key("hidden", 1), Key("hidden", 2)}), {})
    assert num_hooks(model) == 0


class WithLogits:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, None), lambda x: [x], lambda x: {"logits": x}, WithLogits])
@pytest.mark.parametrize("key", [LOGITS, ALL_LOGITS])
def test_logits_are_found_in_any_usual_output(wrap: Any, key: Key) -> None:
    features = ADAPTOR.run(Model(wrap), (IDS,), frozenset({key}), {"scale": 2.0}).features
    assert features[LOGITS].equal(2 * Model()(IDS))


@pytest.mark.parametrize("wrap", [lambda x: {"scores": x}, lambda x: "text", lambda x: (None, x)])
def test_an_output_without_logits_is_refused(wrap: Any) -> None:
    with pytest.raises(OutputError, match="holds no logits"):
        ADAPTOR.run(Model(wrap), (IDS,), frozenset({LOGITS}), {})
    assert ADAPTOR.run(Model(wrap), (IDS,), frozenset({Key("hidden", 0)}), {}).features


def test_labels_are_read_and_the_model_does_not_see_them() -> None:
    labels = torch.tensor([[1, 2, 3], [0, 0, -100]])
    signals = ADAPTOR.run(Model(), {"input_ids": IDS, "labels": labels}, frozenset({LOGITS, LABELS}), {})
    assert signals.features[LABELS] is labels and signals.masks["labels"].tolist() == labels.ge(0).tolist()
    by_function = ModulePathAdaptor(labels=lambda inputs: inputs[0].clamp_max(4))
    assert by_function.run(Model(), (IDS,), frozenset({LABELS}), {}).features[LABELS].equal(IDS.clamp_max(4))


def test_the_attention_mask_says_which_positions_count() -> None:
    keys = frozenset({LOGITS, Key("hidden", 0)})
    masks = ADAPTOR.run(Model(), {"input_ids": IDS, "attention_mask": MASK}, keys, {}).masks
    assert masks["inputs"] is MASK and masks["logits"] is MASK
    assert not ADAPTOR.declares_masks
    for inputs in ({"input_ids": IDS}, (IDS,)):
        masks = ADAPTOR.run(Model(), inputs, keys, {}).masks
        assert all(mask.all() and mask.shape == (2, 3) for mask in masks.values())


def test_logits_of_rows_have_a_mask_of_rows() -> None:
    model = Model(lambda logits: logits[:, 0])
    masks = ADAPTOR.run(model, {"input_ids": IDS, "attention_mask": MASK}, frozenset({LOGITS}), {}).masks
    assert masks["logits"].tolist() == [[True], [True]]


def test_declared_masks_are_those_that_a_run_returns() -> None:
    adaptor = ModulePathAdaptor(masks=lambda inputs: dict.fromkeys(("inputs", "logits"), inputs[0].ne(0)))
    found = adaptor.run(Model(), (IDS,), frozenset({LOGITS}), {}).masks
    assert adaptor.declares_masks
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in adaptor.masks((IDS,)).items()}
    with pytest.raises(NotImplementedError, match="does not declare its masks"):
        ADAPTOR.masks((IDS,))


def test_paths_that_do_not_exist_are_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"Model has no module 'layers.2'; did you mean 'layers.[01]'\?"):
        ModulePathAdaptor(["embedding", "layers.2"]).check(Model(), frozenset({LOGITS}))


@pytest.mark.parametrize("key", [Key("hidden", 3), Key("hidden", -1), Key("attention", 2), Key("logits", 1),
                                 USER_LOSSES])
def test_tensors_without_a_module_are_refused(key: Key) -> None:
    ADAPTOR.check(Model(), frozenset({LOGITS, ALL_LOGITS, LABELS, Key("hidden", 2), Key("attention", 1)}))
    with pytest.raises(PlanError, match=r"is asked for, but the adaptor names only hidden\[0\], .*add its module"):
        ADAPTOR.check(Model(), frozenset({LOGITS, key}))


def test_only_a_version_names_it_across_processes() -> None:
    assert ADAPTOR.fingerprint is None
    named = [ModulePathAdaptor([path], version=version) for path, version in (("a", "1"), ("b", "1"), ("a", "2"))]
    assert len({adaptor.fingerprint for adaptor in named}) == 3
    assert named[0].fingerprint == ModulePathAdaptor(["a"], version="1").fingerprint


@pytest.mark.parametrize("named", [{"attention": ["layers.0.weights"]}, {"attention_scores": ["layers.0.weights"]}])
def test_scores_are_those_of_a_named_module_or_the_logarithm_of_probabilities(named: dict[str, list[str]]) -> None:
    model, key = Model(), Key("attention_scores", 0)
    adaptor = ModulePathAdaptor(**named)
    adaptor.check(model, frozenset({key}), is_trained=True)
    embedded = model.embedding(IDS)
    probabilities = (embedded @ embedded.transpose(1, 2)).softmax(dim=-1)
    found = adaptor.run(model, (IDS,), frozenset({key}), {}).features[key]
    torch.testing.assert_close(found, probabilities.log() if "attention" in named else probabilities)


class Branching(Model):
    """Leaves its last layer out, and has a module without a tensor to give."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = nn.Module()
        self.talk.forward = lambda states: "text"

    def forward(self, input_ids: Tensor, attention_mask: Any = None, scale: float = 1.0) -> Any:
        states, _ = self.layers[0](self.embedding(input_ids))
        self.talk(states)
        return self.head(states)


@pytest.mark.parametrize(("path", "message"), [
    ("layers.1", "the forward of Branching did not reach layers.1"),
    ("talk", "talk of Branching gave str, not a tensor"),
])
def test_a_module_that_gives_nothing_is_named(path: str, message: str) -> None:
    by_layer = ModulePathAdaptor(hidden=[path]), Key("hidden", 0)
    by_path = ModuleOutputs(FunctionAdaptor(lambda batch, outputs: {"logits": outputs})), module_key(path)
    for adaptor, key in (by_layer, by_path):
        adaptor.check(Branching(), frozenset({key}))
        with pytest.raises(OutputError, match=message):
            adaptor.run(Branching(), (IDS,), frozenset({LOGITS, key}), {})


# Beside another adaptor


INNER = FunctionAdaptor(lambda batch, outputs: {"logits": outputs, "hidden": [outputs]}, version="1")


def test_module_outputs_stand_beside_what_the_inner_adaptor_gives() -> None:
    model, key = Model(), module_key("layers.0")
    signals = ModuleOutputs(INNER).run(model, (IDS,), frozenset({LOGITS, key}), {"scale": 2.0})
    assert set(signals.features) == {LOGITS, key}
    assert signals.features[key].equal(model.layers[0](model.embedding(IDS))[0]), "the first of a tuple"
    assert signals.features[LOGITS].equal(model(IDS, scale=2.0)) and num_hooks(model) == 0
    assert signals.masks["inputs"].tolist() == [[True] * 3] * 2, "without a mask every position counts"


def test_masks_and_names_are_the_inner_adaptors() -> None:
    def masks(batch: Any) -> dict[str, Tensor]:
        return {"inputs_mask": MASK}

    declared = FunctionAdaptor(lambda batch, outputs: {"logits": outputs}, masks=masks, version="2")
    for inner in (INNER, declared):
        outer = ModuleOutputs(inner)
        assert (outer.declares_masks, outer.fingerprint) == (inner.declares_masks, inner.fingerprint)
    assert ModuleOutputs(declared).masks((IDS,)) == {"inputs": MASK}
    found = ModuleOutputs(declared).run(Model(), (IDS,), frozenset({LOGITS, module_key("embedding")}), {})
    assert found.masks["inputs"] is MASK


def test_the_width_of_a_linear_module_is_known_and_its_path_is_checked() -> None:
    outer = ModuleOutputs(INNER)
    assert outer.width(Model(), module_key("head")) == 5
    assert outer.width(Model(), module_key("layers.0")) is outer.width(Model(), LOGITS) is None
    with pytest.raises(PlanError, match="Model has no module 'hed'; did you mean 'head'"):
        outer.check(Model(), frozenset({LOGITS, module_key("hed")}))
