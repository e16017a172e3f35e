"""Attention maps: scores for the paper's losses, whoever gives them, and probabilities by their logarithm."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from stillhouse import DistillationConfig, GeneralDistiller
from stillhouse.adaptors import HuggingFaceAdaptor, ModulePathAdaptor
from stillhouse.errors import ConfigError, OutputError, PlanError

from .toys import batches, general, sgd, tconf

INPUTS = {"input_ids": torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0]]),
          "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])}


def match(loss: str, layer_T: int = 1, layer_S: int = 0) -> dict[str, Any]:
    return {"layer_T": layer_T, "layer_S": layer_S, "feature": "attention", "loss": loss}


def cross_entropy(p: Tensor, q: Tensor, mask: Tensor) -> Tensor:
    """Of attention probabilities (B, h, L, L), a mean over heads and kept queries, in plain loops."""
    total, queries = torch.zeros((), dtype=p.dtype), 0
    for b, n in enumerate(mask.sum(1).tolist()):
        queries += n
        for h in range(p.shape[1]):
            for i in range(n):
                for j in range(n):
                    total = total - p[b, h, i, j] * q[b, h, i, j].log()
    return total / (queries * p.shape[1])


# A function adaptor


def scores(batch: Any, out: Any) -> dict[str, Any]:
    return {"attention": out["attention"]}


def probabilities(batch: Any, out: Any) -> dict[str, Any]:
    return {"attention": [scores.softmax(-1) for scores in out["attention"]]}


def logarithms(batch: Any, out: Any) -> dict[str, Any]:
    return {"attention": [scores.log_softmax(-1) for scores in out["attention"]]}


@pytest.mark.parametrize("adaptor", [scores, logarithms])
def test_scores_and_logarithms_of_probabilities_are_the_same_to_a_cross_entropy(tmp_path: Path, adaptor: Any) -> None:
    distiller = general(tmp_path, adaptor, adaptor, kd_loss_weight=0, intermediate_matches=[match("attention_ce")])
    x, _ = batches()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        total, _ = distiller.train_on_batch((x,))
    p, q = (model(x)["attention"][layer].softmax(-1) for model, layer in ((distiller.model_T, 1),
                                                                        (distiller.model_S, 0)))
    torch.testing.assert_close(total, cross_entropy(p, q, torch.ones(6, 5, dtype=torch.long)))


@pytest.mark.parametrize("side", ["T", "S"])
@pytest.mark.parametrize("loss", ["attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean"])
def test_probabilities_where_scores_belong_warn_once_and_only_once(tmp_path: Path, side: str, loss: str) -> None:
    adaptors = (probabilities, scores) if side == "T" else (scores, probabilities)
    matches = [match(loss), match(loss, 2, 1)]
    distiller = general(tmp_path, *adaptors, kd_loss_weight=0, intermediate_matches=matches)
    with pytest.warns(UserWarning, match="holds probabilities .* return the scores, or .*log") as caught:
        distiller.train(sgd(distiller.model_S, lr=1e-3), [(x,) for x, _ in batches(2)], num_epochs=2)
        distiller.train(sgd(distiller.model_S, lr=1e-3), [(x,) for x, _ in batches(1)], num_epochs=1)
    assert len([one for one in caught if "probabilities" in str(one.message)]) == 1


def test_a_users_own_attention_loss_gets_what_the_adaptor_gives(tmp_path: Path) -> None:
    import stillhouse

    stillhouse.register_new("match_loss", "my_maps", lambda s, t, mask=None: (s - t).abs().mean())
    try:
        distiller = general(tmp_path, probabilities, probabilities, kd_loss_weight=0,
                            intermediate_matches=[match("my_maps")])
        x, _ = batches()[0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            total, _ = distiller.train_on_batch((x,))
    finally:
        del stillhouse.MATCH_LOSS_MAP["my_maps"]
    maps = [model(x)["attention"][layer].softmax(-1) for model, layer in ((distiller.model_T, 1),
                                                                        (distiller.model_S, 0))]
    torch.testing.assert_close(total, (maps[1] - maps[0]).abs().mean())


def test_maps_that_do_not_fit_are_refused_at_the_first_batch(tmp_path: Path) -> None:
    def placeholder(batch: Any, out: Any) -> dict[str, Any]:
        return {"attention": [None, *out["attention"]]}

    def two_heads(batch: Any, out: Any) -> dict[str, Any]:
        return {"attention": [torch.cat([scores, scores], dim=1) for scores in out["attention"]]}

    def hidden(batch: Any, out: Any) -> dict[str, Any]:
        return {"attention": out["hidden"]}

    for adaptor, message in ((placeholder, "entry of the adaptor's 'attention' list is None"),
                             (two_heads, "attention_mse_sum or attention_ce_mean"),
                             (hidden, r"an attention map is \(rows, heads, positions, positions\)"),
                             (lambda batch, out: {}, "the adaptor returned no 'attention'")):
        distiller = general(tmp_path, adaptor if adaptor is not placeholder else scores,
                            scores if adaptor is not placeholder else placeholder, kd_loss_weight=0,
                            intermediate_matches=[match("attention_mse")])
        with pytest.raises(OutputError, match=message):
            distiller.train_on_batch((batches()[0][0],))


# Hugging Face


def bert(layers: int, seed: int, heads: int = 2, attention: str = "eager", dropout: float = 0.0) -> Any:
    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=8,
        max_position_embeddings=16, num_labels=3, attn_implementation=attention, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=dropout)).double()
    for parameter in model.parameters():  # the library's small initial weights make all rows of a map alike
        nn.init.normal_(parameter, std=0.7)
    return model


def of_bert(folder: Path, loss: str, teacher: Any = None, student: Any = None, **layers: int) -> GeneralDistiller:
    rows = HuggingFaceAdaptor("rows")
    config = DistillationConfig(kd_loss_weight=0, intermediate_matches=[match(loss, **layers)])
    return GeneralDistiller(tconf(folder), config, teacher or bert(2, 1), student or bert(1, 2), rows, rows)


def maps(distiller: GeneralDistiller) -> list[Tensor]:
    return [model.eval()(**INPUTS, output_attentions=True).attentions[layer].detach()
            for model, layer in ((distiller.model_T, 1), (distiller.model_S, 0))]


def test_probabilities_of_hugging_face_enter_once(tmp_path: Path) -> None:
    distiller = of_bert(tmp_path, "attention_ce")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        total, _ = distiller.train_on_batch(INPUTS)
    total.backward()
    assert float(distiller.model_S.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum()) > 0
    torch.testing.assert_close(total.detach(), cross_entropy(*maps(distiller), INPUTS["attention_mask"]))


def test_a_cross_entropy_of_equal_maps_is_their_entropy(tmp_path: Path) -> None:
    distiller = of_bert(tmp_path, "attention_ce", teacher=bert(1, 2), student=bert(1, 2), layer_T=0)
    total, _ = distiller.train_on_batch(INPUTS)
    total.backward()
    gradient = distiller.model_S.bert.encoder.layer[0].attention.self.query.weight.grad
    assert float(gradient.abs().max()) < 1e-10


def test_a_squared_distance_is_between_logarithms_of_kept_pairs(tmp_path: Path) -> None:
    distiller = of_bert(tmp_path, "attention_mse")
    total, _ = distiller.train_on_batch(INPUTS)
    p, q = (side.log() for side in maps(distiller))
    lengths = INPUTS["attention_mask"].sum(1).tolist()
    distance = sum((p[b, h, :n, :n] - q[b, h, :n, :n]).square().sum() for b, n in enumerate(lengths) for h in range(2))
    torch.testing.assert_close(total.detach(), distance / (2 * sum(n * n for n in lengths)))


@pytest.mark.parametrize("loss", ["attention_mse", "attention_ce"])
def test_different_numbers_of_heads_are_refused_before_anything_runs(tmp_path: Path, loss: str) -> None:
    with pytest.raises(PlanError, match=r"has 4 attention heads, the teacher 2; .*attention_mse_sum"):
        of_bert(tmp_path, loss, student=bert(1, 2, heads=4))
    of_bert(tmp_path, f"{loss}_{'sum' if 'mse' in loss else 'mean'}", student=bert(1, 2, heads=4))


def test_dropout_of_the_students_attention_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"student's attention_probs_dropout_prob is 0.1: .* "
                                        r"make the student with attention_probs_dropout_prob=0.0"):
        of_bert(tmp_path, "attention_ce", student=bert(1, 2, dropout=0.1))
    of_bert(tmp_path, "attention_ce", teacher=bert(2, 1, dropout=0.1))  # a teacher runs in eval mode


def test_a_model_that_gives_no_maps_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="attn_implementation='eager'"):
        of_bert(tmp_path, "attention_ce", teacher=bert(2, 1, attention="sdpa"))
    with pytest.raises(PlanError, match=r"attention map 12 does not exist: .* 2 layers, so maps 0 to 1"):
        of_bert(tmp_path, "attention_ce", layer_T=12)


# By module path


class Attending(nn.Module):
    """Scores, their softmax, and logits; each by a module that a path can name."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner, self.out = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()
        self.scores, self.softmax, self.unused = nn.Identity(), nn.Softmax(dim=-1), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        states = self.inner(x)
        weights = self.softmax(self.scores((states @ states.mT).unsqueeze(1)))
        logits: Tensor = self.out((weights.squeeze(1) @ states).mean(1))
        return logits


@pytest.mark.parametrize("named", [{"attention": ["softmax"]}, {"attention_scores": ["scores"]}], ids=str)
def test_paths_name_scores_or_probabilities(tmp_path: Path, named: dict[str, list[str]]) -> None:
    adaptor = ModulePathAdaptor(**named)
    config = DistillationConfig(kd_loss_weight=0, intermediate_matches=[match("attention_ce", 0, 0)])
    distiller = GeneralDistiller(tconf(tmp_path), config, Attending(1), Attending(2), adaptor, adaptor)
    x, _ = batches()[0]
    total, _ = distiller.train_on_batch((x,))
    states = [model.inner(x) for model in (distiller.model_T, distiller.model_S)]
    p, q = ((s @ s.mT).softmax(-1).unsqueeze(1) for s in states)
    torch.testing.assert_close(total, cross_entropy(p, q, torch.ones(6, 5, dtype=torch.long)))


@pytest.mark.parametrize("named", [{"attention": ["unused"]}, {"attention_scores": ["unused"]}], ids=str)
def test_a_named_module_that_the_forward_does_not_reach_is_said(tmp_path: Path, named: dict[str, list[str]]) -> None:
    adaptor = ModulePathAdaptor(**named)
    config = DistillationConfig(kd_loss_weight=0, intermediate_matches=[match("attention_ce", 0, 0)])
    distiller = GeneralDistiller(tconf(tmp_path), config, Attending(1), Attending(2), adaptor, adaptor)
    with pytest.raises(OutputError, match="the forward of Attending did not reach unused"):
        distiller.train_on_batch((batches()[0][0],))


def test_attention_takes_no_projection() -> None:
    with pytest.raises(ConfigError, match="need no projection; drop proj"):
        DistillationConfig(intermediate_matches=[match("attention_mse") | {"proj": ["linear", 6, 8]}])
