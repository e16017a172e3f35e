"""Losses between relations of positions inside a row."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stillhouse.losses.features import FeatureLoss
from stillhouse.types import Unit


class NST(FeatureLoss):
    """Neuron selectivity transfer: squared distance of similarity matrices between positions.

    With layers a and b of a side, G = H_a H_b^T / width is (L, L); the sum is over pairs of kept positions. The widths
    of the two models may differ. Giving the same layer twice matches that layer's Gram matrix.
    """

    paper = "Huang & Wang 2017, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, arXiv:1707.01219"
    unit = Unit.PAIR
    num_layers = 2
    same_width = False

    @classmethod
    def total(cls, student_BLH: Sequence[Tensor], teacher_BLH: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
        return (_similarity_BLL(*student_BLH) - _similarity_BLL(*teacher_BLH)).square().sum()


def _similarity_BLL(first_BLH: Tensor, second_BLH: Tensor) -> Tensor:
    return first_BLH @ second_BLH.transpose(1, 2) / first_BLH.shape[-1]
