"""Old import path of one distiller."""

from stillhouse.distillers import BasicDistiller

__all__ = ["BasicDistiller"]
