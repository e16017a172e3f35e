"""Stillhouse: knowledge distillation for natural language processing.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "stillhouse.adaptors": ("ADAPTOR_KEYS", "Adaptor", "FunctionAdaptor", "HuggingFaceAdaptor", "ModulePathAdaptor"),
    "stillhouse.config": ("DistillationConfig", "IntermediateMatch", "TrainingConfig"),
    "stillhouse.distillers": (
        "BasicDistiller", "BasicTrainer", "Distillers", "GeneralDistiller", "MultiTaskDistiller",
        "MultiTeacherDistiller",
    ),
    "stillhouse.errors": (
        "CheckpointError", "ConfigError", "DataError", "NonFiniteLossError", "OutputError", "PlanError",
        "StillhouseError", "StoreError", "TrainingError", "UsageError",
    ),
    "stillhouse.front_door": ("DistillationResult", "distill"),
    "stillhouse.match_sets": ("match_layers", "named_matches"),
    "stillhouse.objective": ("Objective", "TaskObjective", "Term"),
    "stillhouse.plan": ("Distillation",),
    "stillhouse.presets": (
        "FEATURES", "KD_LOSS_MAP", "MATCH_LOSS_MAP", "PROJ_MAP", "TEMPERATURE_SCHEDULER", "WEIGHT_SCHEDULER",
        "register_new",
    ),
    "stillhouse.size_table": ("ParameterTable", "parameter_table"),
    "stillhouse.students": ("StudentSpec", "build_student", "known_shapes"),
    "stillhouse.teachers": (
        "CachedTeacher", "EnsembleTeacher", "LiveTeacher", "NoTeacher", "RoutedTeacher", "TeacherSource",
    ),
    "stillhouse.terms": ("CustomMatch",),
    "stillhouse.trainer_bridge": ("DistillationTrainer",),
    "stillhouse.training": ("Evaluation", "FitOptions", "Sink", "fit"),
    "stillhouse.types": ("Batch", "Duration", "Key", "Over", "Progress", "Unit"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ADAPTOR_KEYS",
    "FEATURES",
    "KD_LOSS_MAP",
    "MATCH_LOSS_MAP",
    "PROJ_MAP",
    "TEMPERATURE_SCHEDULER",
    "WEIGHT_SCHEDULER",
    "Adaptor",
    "BasicDistiller",
    "BasicTrainer",
    "Batch",
    "CachedTeacher",
    "CheckpointError",
    "ConfigError",
    "CustomMatch",
    "DataError",
    "Distillation",
    "DistillationConfig",
    "DistillationResult",
    "DistillationTrainer",
    "Distillers",
    "Duration",
    "EnsembleTeacher",
    "Evaluation",
    "FitOptions",
    "FunctionAdaptor",
    "GeneralDistiller",
    "HuggingFaceAdaptor",
    "IntermediateMatch",
    "Key",
    "LiveTeacher",
    "ModulePathAdaptor",
    "MultiTaskDistiller",
    "MultiTeacherDistiller",
    "NoTeacher",
    "NonFiniteLossError",
    "Objective",
    "OutputError",
    "Over",
    "ParameterTable",
    "PlanError",
    "Progress",
    "RoutedTeacher",
    "Sink",
    "StillhouseError",
    "StoreError",
    "StudentSpec",
    "TaskObjective",
    "TeacherSource",
    "Term",
    "TrainingConfig",
    "TrainingError",
    "Unit",
    "UsageError",
    "__version__",
    "build_student",
    "distill",
    "fit",
    "known_shapes",
    "match_layers",
    "named_matches",
    "parameter_table",
    "register_new",
]

if TYPE_CHECKING:
    from stillhouse.adaptors import ADAPTOR_KEYS, Adaptor, FunctionAdaptor, HuggingFaceAdaptor, ModulePathAdaptor
    from stillhouse.config import DistillationConfig, IntermediateMatch, TrainingConfig
    from stillhouse.distillers import (
        BasicDistiller,
        BasicTrainer,
        Distillers,
        GeneralDistiller,
        MultiTaskDistiller,
        MultiTeacherDistiller,
    )
    from stillhouse.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        NonFiniteLossError,
        OutputError,
        PlanError,
        StillhouseError,
        StoreError,
        TrainingError,
        UsageError,
    )
    from stillhouse.front_door import DistillationResult, distill
    from stillhouse.match_sets import match_layers, named_matches
    from stillhouse.objective import Objective, TaskObjective, Term
    from stillhouse.plan import Distillation
    from stillhouse.presets import (
        FEATURES,
        KD_LOSS_MAP,
        MATCH_LOSS_MAP,
        PROJ_MAP,
        TEMPERATURE_SCHEDULER,
        WEIGHT_SCHEDULER,
        register_new,
    )
    from stillhouse.size_table import ParameterTable, parameter_table
    from stillhouse.students import StudentSpec, build_student, known_shapes
    from stillhouse.teachers import (
        CachedTeacher,
        EnsembleTeacher,
        LiveTeacher,
        NoTeacher,
        RoutedTeacher,
        TeacherSource,
    )
    from stillhouse.terms import CustomMatch
    from stillhouse.trainer_bridge import DistillationTrainer
    from stillhouse.training import Evaluation, FitOptions, Sink, fit
    from stillhouse.types import Batch, Duration, Key, Over, Progress, Unit


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
