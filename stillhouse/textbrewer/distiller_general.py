"""Old import path of one distiller."""

from stillhouse.distillers import GeneralDistiller

__all__ = ["GeneralDistiller"]
