"""Losses: each computes a sum over a named unit; the objective divides."""

from stillhouse.losses.base import Loss
from stillhouse.losses.features import FeatureLoss
from stillhouse.losses.function import FunctionLogitsLoss, FunctionLoss, UserLosses
from stillhouse.losses.hidden import PKD, Cosine, HiddenMSE
from stillhouse.losses.logits import ForwardKL, HardLabels, LogitMSE, LogitsLoss, SoftCrossEntropy
from stillhouse.losses.relations import NST

__all__ = [
    "NST",
    "PKD",
    "Cosine",
    "FeatureLoss",
    "ForwardKL",
    "FunctionLogitsLoss",
    "FunctionLoss",
    "HardLabels",
    "HiddenMSE",
    "LogitMSE",
    "LogitsLoss",
    "Loss",
    "SoftCrossEntropy",
    "UserLosses",
]
