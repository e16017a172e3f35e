"""Old import path of one distiller."""

from stillhouse.distillers import MultiTaskDistiller

__all__ = ["MultiTaskDistiller"]
