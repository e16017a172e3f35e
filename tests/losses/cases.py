"""Every loss of the package with its formula, for the tests of what all of them promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from torch import Tensor

from stillhouse.losses import (
    EMD,
    FSP,
    NST,
    PKD,
    AttentionCE,
    AttentionCEMean,
    AttentionMSE,
    AttentionMSESum,
    BernoulliKL,
    Cosine,
    CostAttentionEMD,
    ForwardKL,
    FunctionLogitsLoss,
    FunctionLoss,
    HardLabels,
    HiddenMSE,
    LogitMSE,
    Loss,
    SoftCrossEntropy,
)
from stillhouse.losses.temperature import CWSM, FLSW
from stillhouse.types import Unit

from . import naive
from .naive import Naive, over_predictions
from .sides import A1, A2, H1, H2, H3, H5, H6, H7, H8, LOW, Sides


@dataclass(frozen=True)
class Case:
    """A loss, its formula, and where it departs from what the others promise.

    ``over_all_keys``: it normalises attention over padded keys too, which must then hold scores that are low.
    """

    name: str
    make: Callable[[], Loss]
    naive: Naive
    zero_at_equality: bool = True
    over_all_keys: bool = False

    def padded(self, sides: Sides, content: float) -> Sides:
        """The sides with something at padding, as far as this loss allows anything there."""
        return sides.padded_with(content, LOW if self.over_all_keys else None)


def mean_of_kept(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """A user's own hidden-state loss, careful about padding."""
    keep = mask.ne(0)
    return (student[keep] - teacher[keep]).abs().mean()


def mean_of_kept_pairs(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """A user's own loss of attention maps."""
    keep = mask.ne(0)[:, :, None] & mask.ne(0)[:, None, :]
    return (student.movedim(1, -1)[keep] - teacher.movedim(1, -1)[keep]).abs().sum(dim=-1).mean()


def mean_of_logits(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    each = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    return ((student - teacher) / each).square().sum(dim=-1).mean()


SOFT, KL, MSE, DISTANCE = naive.soft_cross_entropy, naive.kl, naive.logit_mse, naive.squared_distance
BERNOULLI = naive.bernoulli_kl
FLSW_2 = FLSW(beta=2.0, gamma=2.0)  # strong enough for the lowest temperature to be reached
CWSM_1 = CWSM(beta=1.0)

CASES = [
    Case("soft_cross_entropy", lambda: SoftCrossEntropy(3.0), over_predictions(SOFT, 3.0), zero_at_equality=False),
    Case("forward_kl", lambda: ForwardKL(3.0), over_predictions(KL, 3.0)),
    Case("bernoulli_kl", lambda: BernoulliKL(3.0), over_predictions(BERNOULLI, 3.0)),
    Case("bernoulli_kl_shift_flsw", lambda: BernoulliKL(3.0, strategy=FLSW_2, probability_shift=True),
         over_predictions(BERNOULLI, 3.0, naive.flsw(2.0, 2.0), shift=True), zero_at_equality=False),
    Case("logit_mse", lambda: LogitMSE(3.0), over_predictions(MSE, 3.0)),
    Case("soft_cross_entropy_flsw", lambda: SoftCrossEntropy(3.0, strategy=FLSW_2),
         over_predictions(SOFT, 3.0, naive.flsw(2.0, 2.0)), zero_at_equality=False),
    Case("forward_kl_cwsm", lambda: ForwardKL(3.0, strategy=CWSM_1), over_predictions(KL, 3.0, naive.cwsm(1.0))),
    Case("logit_mse_flsw", lambda: LogitMSE(3.0, strategy=FLSW_2), over_predictions(MSE, 3.0, naive.flsw(2.0, 2.0))),
    Case("forward_kl_shift", lambda: ForwardKL(3.0, probability_shift=True), over_predictions(KL, 3.0, shift=True),
         zero_at_equality=False),
    Case("logit_mse_shift_cwsm", lambda: LogitMSE(3.0, strategy=CWSM_1, probability_shift=True),
         over_predictions(MSE, 3.0, naive.cwsm(1.0), shift=True), zero_at_equality=False),
    Case("soft_cross_entropy_shift_flsw", lambda: SoftCrossEntropy(3.0, strategy=FLSW_2, probability_shift=True),
         over_predictions(SOFT, 3.0, naive.flsw(2.0, 2.0), shift=True), zero_at_equality=False),
    Case("hard_labels", HardLabels, naive.hard_labels, zero_at_equality=False),
    Case("hidden_mse", lambda: HiddenMSE([H1], [H5]), naive.hidden_mse(H1, H5)),
    Case("cosine", lambda: Cosine([H1], [H5]), naive.cosine(H1, H5)),
    Case("pkd", lambda: PKD([H1], [H5]), naive.pkd(H1, H5)),
    Case("nst", lambda: NST([H1, H2], [H5, H6]), naive.nst((H1, H2), (H5, H6))),
    Case("fsp", lambda: FSP([H1, H2], [H5, H6]), naive.fsp((H1, H2), (H5, H6))),
    Case("emd", lambda: EMD([H1, H2, H3], [H5, H6, H7, H8]), naive.emd([H1, H2, H3], [H5, H6, H7, H8]),
         zero_at_equality=False),
    Case("emd_cost_attention", lambda: CostAttentionEMD([H1, H2, H3], [H5, H6, H7]),
         naive.emd([H1, H2, H3], [H5, H6, H7])),
    Case("attention_mse", lambda: AttentionMSE([A1], [A2]), naive.attention_mse(A1, A2)),
    Case("attention_mse_sum", lambda: AttentionMSESum([A1], [A2]), naive.attention_mse_sum(A1, A2)),
    Case("attention_ce", lambda: AttentionCE([A1], [A2]), naive.attention_ce(A1, A2), zero_at_equality=False,
         over_all_keys=True),
    Case("attention_ce_mean", lambda: AttentionCEMean([A1], [A2]), naive.attention_ce_mean(A1, A2),
         zero_at_equality=False, over_all_keys=True),
    Case("function", lambda: FunctionLoss(mean_of_kept, [H1], [H5]), naive.hidden_distance(H1, H5)),
    Case("function_of_maps", lambda: FunctionLoss(mean_of_kept_pairs, [A1], [A2], unit=Unit.PAIR),
         naive.map_distance(A1, A2)),
    Case("function_of_logits", lambda: FunctionLogitsLoss(mean_of_logits, 3.0), over_predictions(DISTANCE, 3.0)),
    Case("function_of_logits_flsw", lambda: FunctionLogitsLoss(mean_of_logits, 3.0, strategy=FLSW_2),
         over_predictions(DISTANCE, 3.0, naive.flsw(2.0, 2.0))),
    Case("function_of_logits_shift_cwsm",
         lambda: FunctionLogitsLoss(mean_of_logits, 3.0, strategy=CWSM_1, probability_shift=True),
         over_predictions(DISTANCE, 3.0, naive.cwsm(1.0), shift=True), zero_at_equality=False),
]

# Their value depends on which rows share a micro-batch; every other one is a sum over rows.
OVER_MICRO_BATCHES = {
    "emd", "emd_cost_attention", "soft_cross_entropy_flsw", "forward_kl_cwsm", "logit_mse_flsw", "logit_mse_shift_cwsm",
    "soft_cross_entropy_shift_flsw", "function_of_logits_flsw", "function_of_logits_shift_cwsm",
    "bernoulli_kl_shift_flsw",
}

every_loss = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_sum_over_rows = pytest.mark.parametrize("case", [case for case in CASES if case.name not in OVER_MICRO_BATCHES],
                                              ids=lambda case: case.name)
every_loss_over_micro_batches = pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in OVER_MICRO_BATCHES], ids=lambda case: case.name)


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)
