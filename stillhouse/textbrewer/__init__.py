"""The import paths of the original toolkit: ``import stillhouse.textbrewer as textbrewer`` runs existing scripts."""

from stillhouse import __version__
from stillhouse.adaptors import ADAPTOR_KEYS
from stillhouse.config import DistillationConfig, TrainingConfig
from stillhouse.distillers import (
    BasicDistiller,
    BasicTrainer,
    Distillers,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
)
from stillhouse.presets import (
    FEATURES,
    KD_LOSS_MAP,
    MATCH_LOSS_MAP,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
    register_new,
)
from stillhouse.textbrewer import (  # scripts say textbrewer.utils.display_parameters without importing it
    compatibility,
    configurations,
    data_utils,
    distiller_utils,
    distillers,
    losses,
    presets,
    projections,
    schedulers,
    utils,
)

__all__ = [
    "ADAPTOR_KEYS",
    "FEATURES",
    "KD_LOSS_MAP",
    "MATCH_LOSS_MAP",
    "PROJ_MAP",
    "TEMPERATURE_SCHEDULER",
    "WEIGHT_SCHEDULER",
    "BasicDistiller",
    "BasicTrainer",
    "DistillationConfig",
    "Distillers",
    "GeneralDistiller",
    "MultiTaskDistiller",
    "MultiTeacherDistiller",
    "TrainingConfig",
    "__version__",
    "compatibility",
    "configurations",
    "data_utils",
    "distiller_utils",
    "distillers",
    "losses",
    "presets",
    "projections",
    "register_new",
    "schedulers",
    "utils",
]
