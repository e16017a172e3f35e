"""Losses: each computes a sum over a named unit; the objective divides."""

from stillhouse.losses.attention import AttentionCE, AttentionCEMean, AttentionLoss, AttentionMSE, AttentionMSESum
from stillhouse.losses.base import Loss
from stillhouse.losses.embeddings import EmbeddingCosine, EmbeddingLoss, EmbeddingMSE, EmbeddingRelation
from stillhouse.losses.features import FeatureLoss
from stillhouse.losses.function import FunctionLogitsLoss, FunctionLoss, UserLosses
from stillhouse.losses.hidden import PKD, Cosine, HiddenMSE
from stillhouse.losses.labels import BinaryLabels, HardLabels, SquaredError
from stillhouse.losses.logits import BernoulliKL, ForwardKL, KDLoss, LogitMSE, LogitsLoss, SoftCrossEntropy
from stillhouse.losses.match import MatchLoss
from stillhouse.losses.relations import FSP, NST
from stillhouse.losses.transport import EMD, CostAttentionEMD, TransportLoss

__all__ = [
    "EMD",
    "FSP",
    "NST",
    "PKD",
    "AttentionCE",
    "AttentionCEMean",
    "AttentionLoss",
    "AttentionMSE",
    "AttentionMSESum",
    "BernoulliKL",
    "BinaryLabels",
    "Cosine",
    "CostAttentionEMD",
    "EmbeddingCosine",
    "EmbeddingLoss",
    "EmbeddingMSE",
    "EmbeddingRelation",
    "FeatureLoss",
    "ForwardKL",
    "FunctionLogitsLoss",
    "FunctionLoss",
    "HardLabels",
    "HiddenMSE",
    "KDLoss",
    "LogitMSE",
    "LogitsLoss",
    "Loss",
    "MatchLoss",
    "SoftCrossEntropy",
    "SquaredError",
    "TransportLoss",
    "UserLosses",
]
