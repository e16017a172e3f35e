"""The formulas of the losses again, by loops over positions, heads and features: no batched operation is used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stillhouse.types import LABELS, LOGITS, Key

Side = dict[Key, Tensor]
Naive = Callable[[Side, Side, Tensor], Tensor]
Vector = Sequence[Tensor]
Formula = Callable[[Vector, Vector, float], Tensor]
NaiveStrategy = Callable[[list[tuple[Tensor, Tensor]], float], list[float]]


def zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def kept(mask: Tensor) -> list[tuple[int, int]]:
    return [(b, i) for b in range(mask.shape[0]) for i in range(mask.shape[1]) if mask[b, i]]


def kept_pairs(mask: Tensor) -> list[tuple[int, int, int]]:
    return [(b, i, j) for b, i in kept(mask) for other, j in kept(mask) if other == b]


def softmax(values: Vector) -> list[Tensor]:
    exps = [value.exp() for value in values]
    return [value / sum(exps) for value in exps]


def dot(first: Vector, second: Vector) -> Tensor:
    return sum((x * y for x, y in zip(first, second, strict=True)), zero())


# Between logits


def soft_cross_entropy(student: Vector, teacher: Vector, temperature: float) -> Tensor:
    p, q = softmax([v / temperature for v in teacher]), softmax([v / temperature for v in student])
    return -sum((p[c] * q[c].log() for c in range(len(p))), zero())


def kl(student: Vector, teacher: Vector, temperature: float) -> Tensor:
    p, q = softmax([v / temperature for v in teacher]), softmax([v / temperature for v in student])
    return temperature**2 * sum((p[c] * (p[c] / q[c]).log() for c in range(len(p))), zero())


def bernoulli_kl(student: Vector, teacher: Vector, temperature: float) -> Tensor:
    total = zero()
    for s, t in zip(student, teacher, strict=True):
        p, q = (1 / (1 + (-side / temperature).exp()) for side in (t, s))
        total = total + p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return temperature**2 * total / len(student)


def squared_distance(student: Vector, teacher: Vector, temperature: float) -> Tensor:
    return sum((((s - t) / temperature) ** 2 for s, t in zip(student, teacher, strict=True)), zero())


def logit_mse(student: Vector, teacher: Vector, temperature: float) -> Tensor:
    return squared_distance(student, teacher, temperature) / len(student)


def exchanged(teacher: Vector, label: int) -> list[Tensor]:
    """The label's value and the largest in each other's places; as it is for a negative label."""
    values = list(teacher)
    if label >= 0:
        top = max(range(len(values)), key=lambda c: values[c].item())
        values[label], values[top] = values[top], values[label]
    return values


def _around(base: float, beta: float, weights: list[float]) -> list[float]:
    mean = math.fsum(weights) / len(weights)
    return [max(base + beta * (mean - weight), 0.1 * base) for weight in weights]


def flsw(beta: float, gamma: float, eps: float = 1e-4) -> NaiveStrategy:
    def of(predictions: list[tuple[Tensor, Tensor]], base: float) -> list[float]:
        weights = []
        for student, teacher in predictions:
            lengths = [math.sqrt(dot(side, side)) + eps for side in (student, teacher)]
            weights.append((1 - dot(student, teacher).item() / lengths[0] / lengths[1]) ** gamma)
        return _around(base, beta, weights)

    return of


def cwsm(beta: float) -> NaiveStrategy:
    def of(predictions: list[tuple[Tensor, Tensor]], base: float) -> list[float]:
        return _around(base, beta, [1 / (max(p.item() for p in softmax(s)) + 1e-3) for s, _ in predictions])

    return of


def over_predictions(formula: Formula, temperature: float, strategy: NaiveStrategy | None = None,
                     shift: bool = False) -> Naive:
    """The sum of a formula of two vectors of logits over kept predictions."""
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        pairs = []
        for b, i in kept(mask):
            own, other = list(student[LOGITS][b, i]), list(teacher[LOGITS][b, i])
            pairs.append((own, exchanged(other, int(student[LABELS][b, i])) if shift else other))
        temperatures = [temperature] * len(pairs)
        if strategy is not None and pairs:
            detached = [(torch.stack(s).detach(), torch.stack(t).detach()) for s, t in pairs]
            temperatures = strategy(detached, temperature)
        return sum((formula(*pair, t) for pair, t in zip(pairs, temperatures, strict=True)), zero())

    return total


def hard_labels(student: Side, teacher: Side, mask: Tensor) -> Tensor:
    labels = student[LABELS]
    return -sum((softmax(list(student[LOGITS][b, i]))[int(labels[b, i])].log() for b, i in kept(mask)
                 if labels[b, i] >= 0), zero())


def binary_labels(logits: Tensor, labels: Tensor, kept_rows: Sequence[int]) -> Tensor:
    """Logits and labels are (B, C)."""
    total = zero()
    for b in kept_rows:
        for logit, label in zip(logits[b], labels[b], strict=True):
            p = 1 / (1 + (-logit).exp())
            total = total - (p if label == 1 else 1 - p).log() / len(labels[b])
    return total


def squared_error(numbers: Tensor, labels: Tensor, kept_rows: Sequence[int]) -> Tensor:
    """Numbers are (B, 1), labels (B,)."""
    return sum(((numbers[b, 0] - labels[b]) ** 2 for b in kept_rows), zero())


# Between layers


def mean_squares(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared differences of (B, L, H) as a mean over H, summed over kept positions."""
    width = student.shape[-1]
    return sum(((student[b, i, h] - teacher[b, i, h]) ** 2 / width for b, i in kept(mask) for h in range(width)),
               zero())


def hidden_mse(own: Key, other: Key) -> Naive:
    return lambda student, teacher, mask: mean_squares(student[own], teacher[other], mask)


def hidden_distance(own: Key, other: Key) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        width = student[own].shape[-1]
        return sum(((student[own][b, i, h] - teacher[other][b, i, h]).abs() / width
                    for b, i in kept(mask) for h in range(width)), zero())

    return total


def cosine(own: Key, other: Key) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result = zero()
        for b, i in kept(mask):
            s, t = student[own][b, i], teacher[other][b, i]
            result = result + 1 - dot(s, t) / (dot(s, s).sqrt() * dot(t, t).sqrt())
        return result

    return total


def pkd(own: Key, other: Key) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result = zero()
        for b in range(mask.shape[0]):
            s, t = student[own][b, 0], teacher[other][b, 0]
            for h in range(len(s)):
                result = result + (s[h] / dot(s, s).sqrt() - t[h] / dot(t, t).sqrt()) ** 2 * mask[b, 0]
        return result

    return total


def nst(own: tuple[Key, Key], other: tuple[Key, Key]) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result = zero()
        for b, i, j in kept_pairs(mask):
            first, second = student[own[0]][b, i], student[own[1]][b, j]
            similarity_t = dot(teacher[other[0]][b, i], teacher[other[1]][b, j]) / teacher[other[0]].shape[-1]
            result = result + (dot(first, second) / len(first) - similarity_t) ** 2
        return result

    return total


def fsp(own: tuple[Key, Key], other: tuple[Key, Key]) -> Naive:
    def flow(side: Side, keys: tuple[Key, Key], b: int, places: list[int], g: int, h: int) -> Tensor:
        return sum((side[keys[0]][b, i, g] * side[keys[1]][b, i, h] for i in places), zero()) / len(places)

    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result, width = zero(), student[own[0]].shape[-1]
        for b in range(mask.shape[0]):
            places = [i for row, i in kept(mask) if row == b]
            for g, h in itertools.product(range(width), repeat=2):
                if places:
                    difference = flow(student, own, b, places, g, h) - flow(teacher, other, b, places, g, h)
                    result = result + difference**2 / width**2
        return result

    return total


def emd(own: Sequence[Key], other: Sequence[Key]) -> Naive:
    """Layers that all weigh the same; the embeddings come first."""
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        costs = [[mean_squares(student[s], teacher[t], mask) for t in other[1:]] for s in own[1:]]
        parts = math.lcm(len(costs), len(costs[0]))
        flow = cheapest_plan([[cost.item() for cost in row] for row in costs],
                             [parts // len(costs)] * len(costs), [parts // len(costs[0])] * len(costs[0]))
        moved = sum((flow[s][t] * costs[s][t] for s in range(len(costs)) for t in range(len(costs[0]))), zero())
        return moved + mean_squares(student[own[0]], teacher[other[0]], mask)

    return total


def cheapest_plan(costs: list[list[float]], supply: Sequence[int], demand: Sequence[int]) -> list[list[float]]:
    """The cheapest way to move weights given as numbers of equal parts, by trying every assignment of parts."""
    sources = [s for s, parts in enumerate(supply) for _ in range(parts)]
    targets = [t for t, parts in enumerate(demand) for _ in range(parts)]
    best = min(itertools.permutations(targets),
               key=lambda order: math.fsum(costs[s][t] for s, t in zip(sources, order, strict=True)))
    flow = [[0.0] * len(demand) for _ in supply]
    for s, t in zip(sources, best, strict=True):
        flow[s][t] += 1 / len(sources)
    return flow


# Between attention maps, (B, heads, L, L)


def attention_mse(own: Key, other: Key) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        heads = student[own].shape[1]
        return sum(((student[own][b, h, i, j] - teacher[other][b, h, i, j]) ** 2 / heads
                    for b, i, j in kept_pairs(mask) for h in range(heads)), zero())

    return total


def attention_mse_sum(own: Key, other: Key) -> Naive:
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        return sum(((sum(student[own][b, :, i, j]) - sum(teacher[other][b, :, i, j])) ** 2
                    for b, i, j in kept_pairs(mask)), zero())

    return total


def _query_cross_entropy(student: Vector, teacher: Vector, kept_keys: list[int]) -> Tensor:
    p, q = softmax(teacher), softmax(student)
    return -sum((p[j] * q[j].log() for j in kept_keys), zero())


def attention_ce(own: Key, other: Key) -> Naive:
    """Distributions are over all keys, their cross-entropy over kept ones."""
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result, heads = zero(), student[own].shape[1]
        for b, i in kept(mask):
            keys = [j for row, j in kept(mask) if row == b]
            for h in range(heads):
                rows = list(student[own][b, h, i]), list(teacher[other][b, h, i])
                result = result + _query_cross_entropy(*rows, keys) / heads
        return result

    return total


def attention_ce_mean(own: Key, other: Key) -> Naive:
    def mean_row(scores: Tensor, b: int, i: int) -> list[Tensor]:
        heads = scores.shape[1]
        return [sum((scores[b, h, i, j] for h in range(heads)), zero()) / heads for j in range(scores.shape[-1])]

    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        result = zero()
        for b, i in kept(mask):
            keys = [j for row, j in kept(mask) if row == b]
            result = result + _query_cross_entropy(mean_row(student[own], b, i), mean_row(teacher[other], b, i), keys)
        return result

    return total


def map_distance(own: Key, other: Key) -> Naive:
    """Absolute differences of maps, summed over heads and pairs of kept positions."""
    def total(student: Side, teacher: Side, mask: Tensor) -> Tensor:
        return sum(((student[own][b, h, i, j] - teacher[other][b, h, i, j]).abs()
                    for b, i, j in kept_pairs(mask) for h in range(student[own].shape[1])), zero())

    return total
