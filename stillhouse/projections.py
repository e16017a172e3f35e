"""Trainable maps from the student's width to the teacher's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

INITIAL_STD = 0.02


class Projection(nn.Module):
    """A linear map (..., dim_student) -> (..., dim_teacher), then an activation.

    Weights start from N(0, 0.02), biases from 0, as in the paper's toolkit.
    """

    def __init__(
        self, dim_student: int, dim_teacher: int, activation: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.dim_student, self.dim_teacher = dim_student, dim_teacher
        self.linear = nn.Linear(dim_student, dim_teacher)
        self.activation = activation
        nn.init.normal_(self.linear.weight, std=INITIAL_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.linear(features.to(self.linear.weight.dtype))
        return projected if self.activation is None else self.activation(projected)


def linear(dim_student: int, dim_teacher: int) -> Projection:
    """A linear projection."""
    return Projection(dim_student, dim_teacher)


def relu(dim_student: int, dim_teacher: int) -> Projection:
    """A linear projection, then ReLU."""
    return Projection(dim_student, dim_teacher, torch.relu)


def tanh(dim_student: int, dim_teacher: int) -> Projection:
    """A linear projection, then tanh."""
    return Projection(dim_student, dim_teacher, torch.tanh)
