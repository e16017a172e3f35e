"""Old import path of one distiller."""

from stillhouse.distillers import BasicTrainer

__all__ = ["BasicTrainer"]
