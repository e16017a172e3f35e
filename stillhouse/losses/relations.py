"""Losses between relations of positions inside a row."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stillhouse.losses.features import FeatureLoss
from stillhouse.types import GRAM, Unit


class FSP(FeatureLoss):
    """Flow of solution procedure: squared distance of the Gram matrices between two layers of a side.

    With layers a and b, G = H_a^T H_b / length is (H, H), length being the number of kept positions of the row; the
    sum is over rows, of the mean over G's entries. Giving the same layer twice matches that layer's Gram matrix.
    """

    paper = "Yim et al. 2017, A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and " \
            "Transfer Learning, CVPR"
    unit = Unit.ROW
    num_layers = 2

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        lengths_B = mask_BL.ne(0).sum(dim=1).clamp_min(1)
        difference_BHH = _flow_BHH(student_BLH, lengths_B) - _flow_BHH(teacher_BLH, lengths_B)
        return difference_BHH.square().mean(dim=(1, 2)).sum()


class NST(FeatureLoss):
    """Neuron selectivity transfer: squared distance of similarity matrices between positions.

    With layers a and b of a side, G = H_a H_b^T / width is (L, L); the sum is over pairs of kept positions. The widths
    of the two models may differ. Giving the same layer twice matches that layer's Gram matrix. The teacher's two keys
    may both be that of its G (`stillhouse.adaptors.gram_key`).
    """

    paper = "Huang & Wang 2017, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, arXiv:1707.01219"
    unit = Unit.PAIR
    num_layers = 2
    same_width = False

    def total(self, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        if self.teacher_keys[0].form == GRAM:
            teacher_BLL = teacher_BLH[0].masked_fill(mask_BL.eq(0).unsqueeze(1), 0.0)
        else:
            teacher_BLL = _similarity_BLL(*teacher_BLH)
        return (_similarity_BLL(*student_BLH) - teacher_BLL).square().sum()


def _similarity_BLL(first_BLH: Tensor, second_BLH: Tensor) -> Tensor:
    return first_BLH @ second_BLH.transpose(1, 2) / first_BLH.shape[-1]


def _flow_BHH(layers_BLH: Sequence[Tensor], lengths_B: Tensor) -> Tensor:
    first_BLH, second_BLH = layers_BLH
    return first_BLH.transpose(1, 2) @ second_BLH / lengths_B[:, None, None]
