"""Promises of the masked-LM adaptor: the logits of the selected positions, as the model gives them, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from stillhouse.adaptors.masked_lm import MaskedLMAdaptor
from stillhouse.batches import as_batch
from stillhouse.errors import OutputError, PlanError
from stillhouse.losses import ForwardKL, HardLabels
from stillhouse.teachers.cached import CachedTeacher
from stillhouse.teachers.live import LiveTeacher
from stillhouse.teachers.stores import MemoryStore
from stillhouse.types import LABELS, LOGITS, Key

SIZES = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
         "max_position_embeddings": 24, "pad_token_id": 0}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
DISTIL = {"vocab_size": 30, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8, "max_position_embeddings": 24}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", SIZES),
    "distilbert": ("DistilBert", DISTIL),
    "electra": ("Electra", {**SIZES, "embedding_size": 6}),
    "albert": ("Albert", {**SIZES, "embedding_size": 6}),
    "mpnet": ("MPNet", SIZES),
    "modernbert": ("ModernBert", {**SIZES, **SPECIAL}),
    "deberta-v2": ("DebertaV2", {**SIZES, **DEBERTA}),
    "deberta-v2 as in version 3": ("DebertaV2", {**SIZES, **DEBERTA, "legacy": False}),
    "mobilebert": ("MobileBert", {**SIZES, "hidden_size": 12, "embedding_size": 8, "intra_bottleneck_size": 8}),
}
COMPUTES_ALL = {"mobilebert"}  # its head multiplies by weights of its output embeddings and never calls them

every_family = pytest.mark.parametrize("family", FAMILIES)


def model_of(family: str = "bert") -> Any:
    name, sizes = FAMILIES[family]
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}ForMaskedLM")(getattr(transformers, f"{name}Config")(**sizes))
    for parameter in made.parameters():  # a bias of zeros, or a norm of ones, would hide that it is left out
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def inputs(extra: int = 0) -> dict[str, Tensor]:
    """Three rows of 7, 9 and 5 tokens, of which 2, 3 and 0 are to be predicted."""
    lengths, longest = [7, 9, 5], 9 + extra
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 30, (3, 9), generator=generator)
    ids = torch.cat([ids, torch.zeros(3, extra, dtype=torch.long)], dim=1)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    labels = torch.full((3, longest), -100)
    for row, place in [(0, 5), (0, 2), (1, 8), (1, 1), (1, 4)]:
        labels[row, place] = (7 * row + place) % 30
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels, "logits_mask": labels.ge(0).long()}


def run(model: Any, batch: dict[str, Tensor], *more: Key) -> Any:
    return MaskedLMAdaptor().run(model, batch, frozenset({LOGITS, LABELS, *more}), {})


def full(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits


@every_family
def test_the_logits_are_the_models_own_at_the_selected_positions(family: str) -> None:
    model, batch = model_of(family), inputs()
    found = run(model, batch)
    assert found.features[LOGITS].shape == (3, 3, 30)
    assert found.masks["logits"].tolist() == [[True, True, False], [True, True, True], [False] * 3]
    wanted = full(model, batch)[batch["labels"].ge(0)]
    torch.testing.assert_close(found.features[LOGITS][found.masks["logits"]], wanted)


@every_family
def test_so_are_the_gradients(family: str) -> None:
    def gradients(total: Callable[[Any], Tensor]) -> dict[str, Tensor]:
        model = model_of(family)
        total(model).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    batch, weights = inputs(), torch.randn(5, 30, generator=torch.Generator().manual_seed(1))

    def gathered(model: Any) -> Tensor:
        found = run(model, batch)
        return (found.features[LOGITS][found.masks["logits"]] * weights).sum()

    found = gradients(gathered)
    expected = gradients(lambda model: (full(model, batch)[batch["labels"].ge(0)] * weights).sum())
    assert found and set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@every_family
def test_the_output_embeddings_see_the_selected_positions_alone(family: str) -> None:
    seen: list[int] = []
    model = model_of(family)
    module = model.get_output_embeddings()
    module.register_forward_hook(lambda module, arguments, output: seen.append(output.shape[1]))
    run(model, inputs())
    assert seen == ([] if family in COMPUTES_ALL else [3])
    full(model, inputs())
    assert seen[1:] == ([] if family in COMPUTES_ALL else [9]), "nothing is left in the model"


def test_nothing_is_left_in_a_model_that_fails() -> None:
    model = model_of()
    with pytest.raises(IndexError):
        run(model, {**inputs(), "input_ids": torch.full((3, 9), 99)})
    assert full(model, inputs()).shape == (3, 9, 30)


def test_a_model_whose_output_embeddings_see_something_else_computes_all() -> None:
    class Flat(nn.Module):
        """As a model that takes padding out before its head."""

        config = transformers.BertConfig(**SIZES)

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 8), nn.Linear(8, 30)

        def get_output_embeddings(self) -> nn.Module:
            return self.head

        def forward(self, input_ids: Tensor, return_dict: bool) -> dict[str, Tensor]:
            return {"logits": self.head(self.embed(input_ids).flatten(0, 1)).view(*input_ids.shape, 30)}

    model, batch = Flat(), inputs()
    found = run(model, batch)
    wanted = model(batch["input_ids"], True)["logits"][batch["labels"].ge(0)]
    assert found.features[LOGITS][found.masks["logits"]].equal(wanted)


def test_labels_are_moved_together_as_the_logits_are() -> None:
    batch = inputs()
    found = run(model_of(), batch)
    assert found.features[LABELS].tolist() == [[2, 5, -100], [8, 11, 15], [-100] * 3]
    assert found.masks["labels"].equal(found.masks["logits"])
    assert found.masks["inputs"].equal(batch["attention_mask"])


def test_declared_masks_are_those_of_a_run() -> None:
    declared, found = MaskedLMAdaptor().masks(inputs()), run(model_of(), inputs()).masks
    assert MaskedLMAdaptor.declares_masks and set(declared) == set(found) == {"inputs", "logits", "labels"}
    assert all(declared[name].equal(found[name]) for name in declared)


def test_a_logits_mask_may_say_more_than_the_labels_and_the_reverse() -> None:
    model, batch = model_of(), inputs()
    batch["logits_mask"] = torch.zeros_like(batch["labels"])
    batch["logits_mask"][0, 5] = batch["logits_mask"][2, 0] = 1
    found = run(model, batch)
    assert found.masks["logits"].tolist() == [[False, True, False], [False] * 3, [True, False, False]]
    assert found.masks["labels"].tolist() == [[True, True, False], [True] * 3, [False] * 3]
    torch.testing.assert_close(found.features[LOGITS][found.masks["logits"]],
                               full(model, batch)[batch["logits_mask"].ne(0)])
    del batch["labels"]
    alone = MaskedLMAdaptor().run(model, batch, frozenset({LOGITS}), {})
    assert set(alone.masks) == {"inputs", "logits"} and alone.features[LOGITS].shape == (3, 1, 30)


def test_a_batch_without_anything_to_predict_has_one_empty_place() -> None:
    batch = inputs()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    del batch["logits_mask"]
    found = run(model_of(), batch)
    assert found.features[LOGITS].shape == (3, 1, 30) and not found.masks["logits"].any()


@pytest.mark.parametrize("batch", [{}, {"labels": torch.tensor([1, 0])}, {"logits_mask": torch.ones(2, 1, 1)}])
def test_a_batch_that_does_not_say_what_is_predicted_is_refused(batch: dict[str, Tensor]) -> None:
    with pytest.raises(OutputError, match=r"says which tokens are predicted: labels of .* or a logits_mask"):
        MaskedLMAdaptor().masks({"input_ids": torch.ones(2, 3, dtype=torch.long), **batch})


def test_sums_of_losses_do_not_depend_on_padding_or_the_batch() -> None:
    student, teacher = model_of(), model_of("roberta")

    def sums(batch: dict[str, Tensor]) -> Tensor:
        own, theirs = run(student, batch), run(teacher, batch)
        return torch.stack([ForwardKL(2.0)(own.features, theirs.features, own.masks),
                            HardLabels()(own.features, {}, own.masks)])

    with torch.no_grad():
        whole = sums(inputs())
        torch.testing.assert_close(sums(inputs(extra=4)), whole)
        rows = [{name: values[[i]] for name, values in inputs().items()} for i in range(3)]
        torch.testing.assert_close(torch.stack([sums(row) for row in rows]).sum(dim=0), whole)
        first = sums({name: values[[0], :7] for name, values in inputs().items()})
        torch.testing.assert_close(first, sums(rows[0]))
    assert whole.gt(0).all() and sums(rows[2]).eq(0).all()


def test_layers_come_whole_beside_the_logits() -> None:
    model, batch = model_of(), inputs()
    hidden = Key("hidden", 2)
    found = run(model, batch, hidden).features[hidden]
    expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    torch.testing.assert_close(found, expected.hidden_states[2])


def test_a_teacher_gives_the_same_places() -> None:
    teacher = LiveTeacher(model_of(), MaskedLMAdaptor())
    found = teacher.signals(as_batch(inputs()), frozenset({LOGITS}))
    assert found[LOGITS].equal(run(model_of(), inputs()).features[LOGITS])


def test_a_cache_of_rows_refuses_what_it_cannot_keep() -> None:
    cached = CachedTeacher(LiveTeacher(model_of(), MaskedLMAdaptor()), MemoryStore())
    with pytest.raises(OutputError, match=r"cannot be cached row by row.*switch the cache off"):
        cached.signals(as_batch(inputs()), frozenset({LOGITS}))


def test_only_masked_language_models_are_taken_and_widths_are_known() -> None:
    adaptor = MaskedLMAdaptor()
    adaptor.check(model_of(), frozenset({LOGITS, LABELS}))
    assert adaptor.width(model_of(), LOGITS) == 30 and adaptor.width(model_of(), Key("hidden", 1)) == 8
    with pytest.raises(PlanError, match="hidden state 3 does not exist"):
        adaptor.check(model_of(), frozenset({Key("hidden", 3)}))
    with pytest.raises(PlanError, match="BertModel is no masked language model"):
        adaptor.check(transformers.BertModel(transformers.BertConfig(**SIZES)), frozenset({LOGITS}))
