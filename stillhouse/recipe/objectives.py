"""The objective that a recipe asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from stillhouse.adaptors import gram_key
from stillhouse.errors import ConfigError
from stillhouse.losses import NST, Loss
from stillhouse.losses.embeddings import EMBEDDING_LOSSES
from stillhouse.match_sets import layer_pairs
from stillhouse.objective import Objective, Term
from stillhouse.presets import PROJ_MAP, WEIGHT_SCHEDULER, kd_loss, match_kind, match_loss, strategy_of
from stillhouse.recipe.distillation_schema import DistillationSection, MatchSection
from stillhouse.schedules import Constant, OfFraction, Schedule, is_always_zero
from stillhouse.tasks import Task
from stillhouse.types import Key, module_key

USUAL_TEMPERATURE = 8.0
USUAL_EMBEDDING_LOSSES = {"cosine": 1.0, "relation": 1.0}


def distillation_objective(section: DistillationSection, task: Task[Any], teacher_config: Any,
                           student_config: Any, max_length: int) -> Objective:
    """Terms ``kd``, ``hard`` and, for a match of teacher layer t and student layer s, ``hidden_mse t-s``.

    ``kd_divergence`` only watches: the value of the usual loss where the loss itself is another. Of sentences' vectors
    there are the terms ``cosine``, ``mse`` and ``relation`` instead. New projections are drawn from the global
    generator. ``teacher_config`` is None if no model teaches. Where rows have no more than ``max_length`` tokens, and
    that is no more than the teacher's width, it is asked for similarities of positions instead of the hidden states
    that nothing else reads. Raises `PlanError` for layers that do not exist,
    `ConfigError` for losses that make no sense in this task and for a match given twice.
    """
    _require_sense(section, task)
    terms = []
    if section.loss_weight:
        terms += (_embedding_terms(section, teacher_config, student_config) if task.signal == "embedding"
                  else _logits_terms(section, task))
    if section.hard_label_weight:
        terms.append(Term("hard", task.hard_loss(), scheduled(section.hard_label_weight, section.hard_label_schedule),
                          all_heads=task.num_heads > 1))
    if section.matches and teacher_config is None:
        raise ConfigError("distillation.matches: a teacher that is only numbers has no layers; take the matches "
                          "out, or give a model as teacher")
    asked = [(match, loss, place) for match in section.matches for loss in match.losses if match.weight_of(loss)
             for place in _places(match, loss, teacher_config.num_hidden_layers, student_config.num_hidden_layers)]
    if max_length <= getattr(teacher_config, "hidden_size", 0):
        asked = _with_small_forms(asked)
    terms += [Term(f"{loss} {place.name}", _match_loss(match, loss, place, teacher_config, student_config),
                   scheduled(match.weight_of(loss), match.schedule)) for match, loss, place in asked]
    names = [term.name for term in terms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"distillation.matches: {', '.join(twice)} (teacher layer-student layer) is asked for more "
                          "than once; take it out of all but one match, and raise its weight there")
    return Objective(terms)


def supervised_objective(task: Task[Any]) -> Objective:
    """The task's loss with the data's labels alone."""
    return Objective([Term("hard", task.hard_loss(), all_heads=task.num_heads > 1)])


_OF_LOGITS = ("temperature", "temperature_strategy", "loss", "loss_schedule", "probability_shift", "hard_label_weight")


def _require_sense(section: DistillationSection, task: Task[Any]) -> None:
    if task.signal == "embedding":
        idle = [name for name in _OF_LOGITS if getattr(section, name)]
        if idle:
            raise ConfigError(f"distillation: {', '.join(idle)} {'is' if len(idle) == 1 else 'are'} about logits or "
                              f"labels, and {task.name} has none; use embedding: {{cosine: 1, relation: 1}}")
    elif section.embedding is not None:
        raise ConfigError(f"distillation.embedding is for the task sentence-embedding; {task.name} compares logits: "
                          "use loss")
    if section.loss is not None and task.kd_losses is not None and section.loss not in task.kd_losses:
        raise ConfigError(f"distillation.loss: {section.loss} makes no sense for this kind of label; use "
                          f"{' or '.join(task.kd_losses)}")
    if section.loss == "bernoulli_kl" and task.kd_losses is None:
        raise ConfigError("distillation.loss: bernoulli_kl is for several labels a row, whose logits do not compete; "
                          "here they do: use forward_kl")
    if section.temperature_strategy and task.problem_type == "regression":
        raise ConfigError("distillation.temperature_strategy sets the temperature of probabilities, and here the label "
                          "is a number, which has none; leave temperature_strategy out")
    if section.probability_shift and task.kd_losses is not None:
        raise ConfigError("distillation.probability_shift exchanges the logits of two classes, of which one is the "
                          "label; with this kind of label leave it out")


def _logits_terms(section: DistillationSection, task: Task[Any]) -> list[Term]:
    usual = task.kd_losses[0] if task.kd_losses else "forward_kl"
    name, choice = section.loss or usual, section.temperature_strategy
    temperature = section.temperature or (1.0 if usual == "mse" else USUAL_TEMPERATURE)
    loss = kd_loss(name, temperature, strategy=None if choice is None else strategy_of(choice),
                   probability_shift=section.probability_shift)
    every_head = task.num_heads > 1
    terms = [Term("kd", loss, scheduled(section.loss_weight, section.loss_schedule), all_heads=every_head)]
    if name != usual or choice is not None or section.probability_shift:
        terms.append(Term("kd_divergence", kd_loss(usual, temperature), all_heads=every_head, monitored=True))
    return terms


def _embedding_terms(section: DistillationSection, teacher_config: Any, student_config: Any) -> list[Term]:
    widths = student_config.hidden_size, teacher_config.hidden_size
    terms = []
    for name, weight in (section.embedding or USUAL_EMBEDDING_LOSSES).items():
        loss = EMBEDDING_LOSSES[name]
        projection = PROJ_MAP["linear"](*widths) if loss.same_width and widths[0] != widths[1] else None
        terms.append(Term(name, loss(projection), Constant(weight * section.loss_weight)))
    return [term for term in terms if not is_always_zero(term.weight)]


def scheduled(weight: float, schedule: str | None) -> Schedule:
    """A weight over time; a schedule multiplies it."""
    return Constant(weight) if schedule is None else OfFraction(WEIGHT_SCHEDULER[schedule], scale=weight)


class _Place(NamedTuple):
    """Where a loss is applied: its name in the logs, and the layers of each side."""

    name: str
    teacher: Sequence[Key]
    student: Sequence[Key]


_Asked = tuple[MatchSection, str, _Place]


def _with_small_forms(asked: Sequence[_Asked]) -> list[_Asked]:
    """The same losses; of teacher layers that only `NST` reads, it is given their similarities instead."""
    read_otherwise = {key for _, loss, place in asked if match_kind(loss) is not NST for key in place.teacher}
    return [(match, loss, place._replace(teacher=[gram_key(place.teacher)] * 2))
            if match_kind(loss) is NST and not read_otherwise.intersection(place.teacher) else (match, loss, place)
            for match, loss, place in asked]


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
