"""The objective that a recipe asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from stillhouse.errors import ConfigError
from stillhouse.losses import ForwardKL, HardLabels, Loss
from stillhouse.match_sets import layer_pairs
from stillhouse.objective import Objective, Term
from stillhouse.presets import PROJ_MAP, WEIGHT_SCHEDULER, kd_loss, match_kind, match_loss, strategy_of
from stillhouse.recipe.distillation_schema import DistillationSection, MatchSection
from stillhouse.schedules import Constant, OfFraction, Schedule
from stillhouse.types import Key, module_key


def distillation_objective(section: DistillationSection, teacher_config: Any, student_config: Any) -> Objective:
    """Terms ``kd``, ``hard`` and, for a match of teacher layer t and student layer s, ``hidden_mse t-s``.

    ``kd_divergence`` only watches: the value of `ForwardKL` where the loss itself is another. New projections are drawn
    from the global generator. Raises `PlanError` for layers that do not exist, `ConfigError` for a match given twice.
    """
    terms = []
    if section.loss_weight:
        choice = section.temperature_strategy
        loss = kd_loss(section.loss, section.temperature, strategy=None if choice is None else strategy_of(choice),
                       probability_shift=section.probability_shift)
        terms.append(Term("kd", loss, scheduled(section.loss_weight, section.loss_schedule)))
        if section.loss != "forward_kl" or choice is not None or section.probability_shift:
            terms.append(Term("kd_divergence", ForwardKL(section.temperature), monitored=True))
    if section.hard_label_weight:
        terms.append(Term("hard", HardLabels(), scheduled(section.hard_label_weight, section.hard_label_schedule)))
    for match in section.matches:
        terms += _match_terms(match, teacher_config, student_config)
    names = [term.name for term in terms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"distillation.matches: {', '.join(twice)} (teacher layer-student layer) is asked for more "
                          "than once; take it out of all but one match, and raise its weight there")
    return Objective(terms)


def supervised_objective() -> Objective:
    """Cross-entropy with the data's labels alone."""
    return Objective([Term("hard", HardLabels())])


def scheduled(weight: float, schedule: str | None) -> Schedule:
    """A weight over time; a schedule multiplies it."""
    return Constant(weight) if schedule is None else OfFraction(WEIGHT_SCHEDULER[schedule], scale=weight)


class _Place(NamedTuple):
    """Where a loss is applied: its name in the logs, and the layers of each side."""

    name: str
    teacher: Sequence[Key]
    student: Sequence[Key]


def _match_terms(match: MatchSection, teacher_config: Any, student_config: Any) -> list[Term]:
    return [
        Term(f"{loss} {place.name}", _match_loss(match, loss, place, teacher_config, student_config),
             scheduled(match.weight_of(loss), match.schedule))
        for loss in match.losses if match.weight_of(loss)
        for place in _places(match, loss, teacher_config.num_hidden_layers, student_config.num_hidden_layers)
    ]


def _places(match: MatchSection, loss: str, teacher_depth: int, student_depth: int) -> Iterator[_Place]:
    if match.module_T is not None and match.module_S is not None:
        yield _Place(f"{match.module_T}-{match.module_S}", [module_key(match.module_T)], [module_key(match.module_S)])
        return
    kind = match_kind(loss)
    if kind is not None and kind.num_layers is None:
        yield _Place("all", [Key("hidden", layer) for layer in range(teacher_depth + 1)],
                     [Key("hidden", layer) for layer in range(student_depth + 1)])
        return
    reads, repeated = ("hidden", 1) if kind is None else (kind.reads, kind.num_layers or 1)
    for pair in layer_pairs(match.layers or "uniform", loss, teacher_depth=teacher_depth, student_depth=student_depth):
        keys = [Key(reads, layer - 1 if reads == "attention" else layer) for layer in pair]
        yield _Place(f"{pair.teacher}-{pair.student}", [keys[0]] * repeated, [keys[1]] * repeated)


def _match_loss(match: MatchSection, loss: str, place: _Place, teacher_config: Any, student_config: Any) -> Loss:
    kind = match_kind(loss)
    compares_widths = kind is None or (kind.same_width and kind.reads == "hidden")
    new_projection: partial[nn.Module] | None = None
    if not isinstance(match.projection, str):
        name, *widths = match.projection
        new_projection = partial(PROJ_MAP[name], *widths)
    elif compares_widths and student_config.hidden_size != teacher_config.hidden_size:
        new_projection = partial(PROJ_MAP[match.projection], student_config.hidden_size, teacher_config.hidden_size)
    return match_loss(loss, place.student, place.teacher, new_projection)
