"""Old import path of the projections."""

from stillhouse.projections import Projection, linear, relu, tanh

__all__ = ["Projection", "linear", "relu", "tanh"]
