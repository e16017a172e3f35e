"""The objective that a recipe asks for."""

from __future__ import annotations

from typing import Any

from stillhouse.errors import ConfigError
from stillhouse.layer_maps import LayerPair, resolve
from stillhouse.losses import (
    NST,
    PKD,
    Cosine,
    FeatureLoss,
    ForwardKL,
    HardLabels,
    HiddenMSE,
    LogitMSE,
    LogitsLoss,
    SoftCrossEntropy,
)
from stillhouse.objective import Objective, Term
from stillhouse.projections import linear
from stillhouse.recipe.schema import DistillationSection, MatchSection
from stillhouse.schedules import Constant
from stillhouse.types import Key

LOGITS_LOSSES: dict[str, type[LogitsLoss]] = {"forward_kl": ForwardKL, "ce": SoftCrossEntropy, "mse": LogitMSE}
MATCH_LOSSES: dict[str, type[FeatureLoss]] = {"hidden_mse": HiddenMSE, "nst": NST, "cos": Cosine, "pkd": PKD}


def distillation_objective(section: DistillationSection, teacher_config: Any, student_config: Any) -> Objective:
    """Terms ``kd``, ``hard`` and, for a match of teacher layer t and student layer s, ``hidden_mse t-s``.

    ``kd_divergence`` only watches: the value of `ForwardKL` where the loss itself is another. New projections are drawn
    from the global generator. Raises `PlanError` for layers that do not exist, `ConfigError` for a match given twice.
    """
    terms = []
    if section.loss_weight:
        loss = LOGITS_LOSSES[section.loss](section.temperature)
        terms.append(Term("kd", loss, Constant(section.loss_weight)))
        if section.loss != "forward_kl":
            terms.append(Term("kd_divergence", ForwardKL(section.temperature), monitored=True))
    if section.hard_label_weight:
        terms.append(Term("hard", HardLabels(), Constant(section.hard_label_weight)))
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


def _match_terms(match: MatchSection, teacher_config: Any, student_config: Any) -> list[Term]:
    pairs = resolve(match.layers, teacher_depth=teacher_config.num_hidden_layers,
                    student_depth=student_config.num_hidden_layers)
    widths = student_config.hidden_size, teacher_config.hidden_size
    return [
        Term(f"{name} {pair.teacher}-{pair.student}", _match_loss(MATCH_LOSSES[name], pair, *widths),
             Constant(match.weight_of(name)))
        for name in match.losses for pair in pairs if match.weight_of(name)
    ]


def _match_loss(kind: type[FeatureLoss], pair: LayerPair, student_width: int, teacher_width: int) -> FeatureLoss:
    needs_projection = kind.same_width and student_width != teacher_width
    return kind(
        [Key("hidden", pair.student)] * kind.num_layers,
        [Key("hidden", pair.teacher)] * kind.num_layers,
        linear(student_width, teacher_width) if needs_projection else None,
    )
