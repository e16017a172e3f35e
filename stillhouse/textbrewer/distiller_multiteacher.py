"""Old import path of one distiller."""

from stillhouse.distillers import MultiTeacherDistiller

__all__ = ["MultiTeacherDistiller"]
