"""What a `DistillationConfig` means: the terms of an objective, under the names the paper's toolkit logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from stillhouse import presets
from stillhouse.config import DistillationConfig, IntermediateMatch
from stillhouse.errors import PlanError
from stillhouse.losses import FunctionLoss, Loss, UserLosses
from stillhouse.objective import Term
from stillhouse.schedules import Constant, OfFraction, Schedule
from stillhouse.types import Key, module_key, module_path

KD_TERM, HARD_LABEL_TERM = "unweighted_kd_loss", "unweighted_hard_label_loss"


@dataclass(frozen=True)
class CustomMatch:
    """A loss between the outputs of two modules, made in code.

    Args:
        module_T: a module of the teacher, or its path, such as ``bert.pooler``.
        module_S: a module of the student, or its path.
        weight: of this loss.
        loss: a name in ``MATCH_LOSS_MAP``, or ``f(output_S, output_T, mask_S, mask_T) -> mean``.
        proj_func: a module applied to the student's output.
        proj_group: optimizer options of its parameters, such as ``{"lr": 1e-3}``.
    """

    module_T: nn.Module | str
    module_S: nn.Module | str
    weight: float
    loss: str | Callable[..., Tensor]
    proj_func: nn.Module | None = None
    proj_group: Mapping[str, Any] | None = None

    def between(self, student: Key, teacher: Key) -> Loss:
        """The loss. Raises `ConfigError` for an unknown name."""
        if isinstance(self.loss, str):
            projection = self.proj_func
            return presets.match_loss(self.loss, [student], [teacher],
                                      None if projection is None else lambda: projection)
        return FunctionLoss(_with_one_mask(self.loss), [student], [teacher], self.proj_func)

    def options(self) -> dict[str, Any]:
        """The options of the projection's optimizer group."""
        return {name: value for name, value in (self.proj_group or {}).items() if name != "params"}


class Matches:
    """The terms of a configuration's intermediate matches, and the optimizer groups of their projections.

    Args:
        config: the configuration.
        student: projections get the floating-point type of its parameters.
        custom: further matches, made in code, and
        teacher: the model whose modules they name.
    """

    def __init__(self, config: DistillationConfig, student: nn.Module, custom: Sequence[CustomMatch] = (),
                 teacher: nn.Module | None = None) -> None:
        self.terms: list[Term] = []
        self.parameter_groups: list[dict[str, Any]] = []
        self._dtype = next((p.dtype for p in student.parameters() if p.is_floating_point()), None)
        for match in config.intermediate_matches:
            keys_S, keys_T = _keys(match, "S"), _keys(match, "T")
            options: dict[str, Any] = {}
            new_projection = None
            if match.proj is not None:
                name, dim_student, dim_teacher, *rest = match.proj
                new_projection = partial(self._projection, name, dim_student, dim_teacher)
                options = (rest[0] or {}) if rest else {}
            loss = presets.match_loss(match.loss, keys_S, keys_T, new_projection)
            self._add(self._name(match, keys_S, keys_T), loss, match.weight, options)
        for own in custom:
            assert teacher is not None
            path_S, path_T = _path(own.module_S, student), _path(own.module_T, teacher)
            name = own.loss if isinstance(own.loss, str) else getattr(own.loss, "__name__", type(own.loss).__name__)
            self._add(f"unweighted_module_{name}_{path_S}_{path_T}",
                      own.between(module_key(path_S), module_key(path_T)), own.weight, own.options())
        self.by_module = any(module_path(key) is not None for term in self.terms for key in term.loss.needs.student)

    def _projection(self, name: str, dim_student: int, dim_teacher: int) -> nn.Module:
        return presets.PROJ_MAP[name](dim_student, dim_teacher).to(dtype=self._dtype)

    def _add(self, name: str, loss: Loss, weight: float, options: dict[str, Any]) -> None:
        taken = sum(term.name == name or term.name.startswith(f"{name}#") for term in self.terms)
        self.terms.append(Term(f"{name}#{taken + 1}" if taken else name, loss, Constant(weight)))
        parameters = list(loss.parameters())
        if parameters:
            self.parameter_groups.append({"params": parameters, **options})

    @staticmethod
    def _name(match: IntermediateMatch, keys_S: Sequence[Key], keys_T: Sequence[Key]) -> str:
        if match.module_S is not None:
            return f"unweighted_module_{match.loss}_{match.module_S}_{match.module_T}"
        layers = ["-".join(str(key.index) for key in keys) for keys in (keys_S, keys_T)]
        return f"unweighted_{match.feature}_{match.loss}_{layers[0]}_{layers[1]}"


def logits_terms(config: DistillationConfig, optional: bool = False) -> list[Term]:
    """The loss between logits (``optional``: left out where a side gives none), and the adaptor's own losses."""
    kd = presets.kd_loss(config.kd_loss_type, config.temperature, strategy=config.temperature_scheduler,
                         probability_shift=config.probability_shift)
    return [
        Term(KD_TERM, kd, _weight(config.kd_loss_weight, config.kd_loss_weight_scheduler), all_heads=True,
             optional=optional),
        Term(HARD_LABEL_TERM, UserLosses(), _weight(config.hard_label_weight, config.hard_label_weight_scheduler),
             optional=True),
    ]


def _keys(match: IntermediateMatch, side: str) -> list[Key]:
    path, layers = getattr(match, f"module_{side}"), getattr(match, f"layer_{side}")
    if path is not None:
        return [module_key(path)]
    assert match.feature is not None
    return [Key(match.feature, layer) for layer in (layers if isinstance(layers, list) else [layers])]


def _path(module: nn.Module | str, model: nn.Module) -> str:
    if isinstance(module, str):
        return module
    path: str
    for path, candidate in model.named_modules():
        if candidate is module and path:
            return path
    raise PlanError(f"a custom match names a {type(module).__name__} that is no module inside {type(model).__name__}; "
                    "give one of its modules, or the path of one")


def _with_one_mask(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The original's custom losses take a mask for each side; both sides cover the same positions here."""
    def called(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return loss(student, teacher, mask, mask)

    return called


def _weight(weight: float, scheduler: str | None) -> Schedule:
    return Constant(weight) if scheduler is None else OfFraction(presets.WEIGHT_SCHEDULER[scheduler])
