"""What a `DistillationConfig` means: the terms of an objective, under the names the paper's toolkit logs."""

from __future__ import annotations

from typing import Any

from torch import nn

from stillhouse import presets
from stillhouse.config import DistillationConfig, IntermediateMatch
from stillhouse.losses import UserLosses
from stillhouse.objective import Term
from stillhouse.schedules import Constant, OfFraction, Schedule
from stillhouse.types import Key

KD_TERM, HARD_LABEL_TERM = "unweighted_kd_loss", "unweighted_hard_label_loss"


class Matches:
    """The terms of a configuration's intermediate matches, and the optimizer groups of their projections."""

    def __init__(self, config: DistillationConfig, student: nn.Module) -> None:
        self.terms: list[Term] = []
        self.parameter_groups: list[dict[str, Any]] = []
        dtype = next((p.dtype for p in student.parameters() if p.is_floating_point()), None)
        for match in config.intermediate_matches:
            projection = None
            if match.proj is not None:
                name, dim_student, dim_teacher, *options = match.proj
                projection = presets.PROJ_MAP[name](dim_student, dim_teacher).to(dtype=dtype)
                group_options = (options[0] or {}) if options else {}
                self.parameter_groups.append({"params": list(projection.parameters()), **group_options})
            loss = presets.match_loss(match.loss, _keys(match, "S"), _keys(match, "T"), projection)
            self.terms.append(Term(self._name(match), loss, Constant(match.weight)))

    def _name(self, match: IntermediateMatch) -> str:
        layers = ["-".join(str(key.index) for key in _keys(match, side)) for side in "ST"]
        name = f"unweighted_{match.feature}_{match.loss}_{layers[0]}_{layers[1]}"
        taken = sum(term.name == name or term.name.startswith(f"{name}#") for term in self.terms)
        return f"{name}#{taken + 1}" if taken else name


def logits_terms(config: DistillationConfig, optional: bool = False) -> list[Term]:
    """The loss between logits (``optional``: left out where a side gives none), and the adaptor's own losses."""
    kd = presets.kd_loss(config.kd_loss_type, config.temperature)
    return [
        Term(KD_TERM, kd, _weight(config.kd_loss_weight, config.kd_loss_weight_scheduler), all_heads=True,
             optional=optional),
        Term(HARD_LABEL_TERM, UserLosses(), _weight(config.hard_label_weight, config.hard_label_weight_scheduler),
             optional=True),
    ]


def _keys(match: IntermediateMatch, side: str) -> list[Key]:
    layers = match.layer_S if side == "S" else match.layer_T
    return [Key(match.feature, layer) for layer in (layers if isinstance(layers, list) else [layers])]


def _weight(weight: float, scheduler: str | None) -> Schedule:
    return Constant(weight) if scheduler is None else OfFraction(presets.WEIGHT_SCHEDULER[scheduler])
