"""Old import path of the distillers."""

from stillhouse.distillers import (
    BasicDistiller,
    BasicTrainer,
    GeneralDistiller,
    MultiTaskDistiller,
    MultiTeacherDistiller,
)

__all__ = ["BasicDistiller", "BasicTrainer", "GeneralDistiller", "MultiTaskDistiller", "MultiTeacherDistiller"]
