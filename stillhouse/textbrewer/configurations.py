"""Old import path of the configurations."""

from stillhouse.config import Config, DistillationConfig, IntermediateMatch, TrainingConfig

__all__ = ["Config", "DistillationConfig", "IntermediateMatch", "TrainingConfig"]
