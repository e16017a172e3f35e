"""One set of tensors that every loss of the contract reads from, and what padding means for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stillhouse.losses import Loss
from stillhouse.types import ATTENTION_SCORES, LABELS, LOGITS, Key

from .naive import Side

H1, H2, H3, H5, H6, H7, H8 = (Key("hidden", layer) for layer in (1, 2, 3, 5, 6, 7, 8))
A1, A2 = (Key(ATTENTION_SCORES, layer) for layer in (1, 2))
TWINS = {LOGITS: LOGITS, H5: H1, H6: H2, H7: H3, A2: A1}  # the student's key for the teacher's

MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
WIDTH, HEADS = 4, 2
LOW = -1e4  # a score as models give it to a padded key


@dataclass(frozen=True)
class Sides:
    """Both models' tensors, and one mask for all of them."""

    student: Side
    teacher: Side
    mask: Tensor

    def masks(self) -> dict[str, Tensor]:
        return dict.fromkeys(("logits", "inputs", "labels"), self.mask)

    def map(self, change: Callable[[Key, Tensor], Tensor]) -> Sides:
        """Each tensor changed; then the floating ones are leaves of a graph on the student's side."""
        def changed(side: Side, trained: bool) -> Side:
            found = {key: change(key, value.detach()).detach().clone() for key, value in side.items()}
            return {key: v.requires_grad_(trained) if v.is_floating_point() else v for key, v in found.items()}

        return Sides(changed(self.student, True), changed(self.teacher, False), self.mask)

    def to(self, dtype: torch.dtype) -> Sides:
        return self.map(lambda key, value: value.to(dtype) if value.is_floating_point() else value)

    def padded_with(self, content: float, padded_keys: float | None = None) -> Sides:
        """Something at every padded place, and an impossible label.

        ``padded_keys``: what kept queries of attention maps find at padded keys, if that is something else.
        """
        def changed(key: Key, value: Tensor) -> Tensor:
            if key == LABELS:
                return value.masked_fill(self.mask.eq(0), 99)
            if key.kind == ATTENTION_SCORES and padded_keys is not None:
                value = value.masked_fill(self.mask.eq(0)[:, None, None, :], padded_keys)
                return value.masked_fill(self.mask.eq(0)[:, None, :, None], content)
            return value.masked_fill(~places(key, self.mask), content)

        return self.map(changed)

    def widened(self, length: int) -> Sides:
        """More padding: zeros, 3.0 in the queries and low scores in the keys of attention maps."""
        def changed(key: Key, value: Tensor) -> Tensor:
            if key.kind == ATTENTION_SCORES:
                wide = torch.nn.functional.pad(value, (0, length, 0, length), value=LOW)
                wide[:, :, -length:] = 3.0
                return wide
            return torch.cat([value, torch.full_like(value[:, :length], 3)], dim=1)

        wide = self.map(changed)
        return replace(wide, mask=torch.cat([self.mask, torch.zeros_like(self.mask[:, :length])], dim=1))

    def row(self, b: int) -> Sides:
        one = self.map(lambda key, value: value[[b]])
        return replace(one, mask=self.mask[[b]])

    def value(self, loss: Loss) -> Tensor:
        return loss(self.student, self.teacher, self.masks())

    def value_and_gradients(self, loss: Loss) -> tuple[Tensor, Side]:
        value = self.value(loss)
        value.backward()
        return value.detach(), {key: leaf.grad for key, leaf in self.student.items() if leaf.grad is not None}


def places(key: Key, mask: Tensor) -> Tensor:
    """Where a tensor holds something of kept positions; broadcasts against it."""
    kept = mask.ne(0)
    if key.kind == ATTENTION_SCORES:
        return kept[:, None, :, None] & kept[:, None, None, :]
    return kept.unsqueeze(-1)


def cropped(key: Key, value: Tensor, length: int) -> Tensor:
    """The first positions alone."""
    return value[..., :length, :length] if key.kind == ATTENTION_SCORES else value[:, :length]


def sides(dtype: torch.dtype = torch.float64, mask: Tensor = MASK) -> Sides:
    """Random tensors, at padding too. One kept label is to be ignored."""
    generator = torch.Generator().manual_seed(0)
    rows, length = MASK.shape

    def side(maps: Key, *states: Key) -> Side:
        def tensor(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        return {**{key: tensor(rows, length, WIDTH) for key in states}, maps: tensor(rows, HEADS, length, length)}

    student, teacher = side(A1, LOGITS, H1, H2, H3), side(A2, LOGITS, H5, H6, H7, H8)
    student[LABELS] = torch.randint(0, WIDTH, MASK.shape, generator=generator)
    student[LABELS][1, 2] = -100
    return Sides(student, teacher, mask).to(dtype)


def alone(tensor: Tensor) -> Tensor:
    """The sum over ranks where there is one."""
    return tensor
