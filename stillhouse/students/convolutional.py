"""Convolutional students: layers that read a few words to each side."""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# The base classes of transformers are untyped in places.

from __future__ import annotations

from typing import cast

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.students.word_models import (
    WordConfig,
    WordModel,
    WordModelForQuestionAnswering,
    WordModelForSequenceClassification,
    WordModelForTokenClassification,
)


@strict
class ConvolutionalConfig(WordConfig):
    """Convolutions over ``kernel_size`` words, an odd number, so that states keep their places."""

    model_type = "stillhouse_cnn"

    num_hidden_layers: int = 3
    kernel_size: int = 5

    def validate_kernel(self) -> None:
        """Raise ``ValueError`` for a kernel without a middle (called by transformers)."""
        size = self.kernel_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1 or size % 2 == 0:
            raise ValueError(f"kernel_size is {size!r}: give an odd number, such as 3 or 5")


class ConvolutionalLayer(nn.Module):
    """Adds to each word what a convolution finds around it, and normalises."""

    def __init__(self, width: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, H) from states (B, T, H), which are 0 where the mask (B, T) has no words."""
        found = F.gelu(self.convolution(states.transpose(1, 2))).transpose(1, 2)
        normed: Tensor = self.norm(states + self.dropout(found))
        return normed


class ConvolutionalModel(WordModel):
    """The convolutional student without a head."""

    config_class = ConvolutionalConfig

    def new_layer(self, config: WordConfig) -> nn.Module:
        return ConvolutionalLayer(config.hidden_size, cast(ConvolutionalConfig, config).kernel_size, config.dropout)


class ConvolutionalForSequenceClassification(WordModelForSequenceClassification):
    """The convolutional student of a text classifier."""

    config_class = ConvolutionalConfig
    encoder_class = ConvolutionalModel


class ConvolutionalForTokenClassification(WordModelForTokenClassification):
    """The convolutional student of a tagger."""

    config_class = ConvolutionalConfig
    encoder_class = ConvolutionalModel


class ConvolutionalForQuestionAnswering(WordModelForQuestionAnswering):
    """The convolutional student of a reader."""

    config_class = ConvolutionalConfig
    encoder_class = ConvolutionalModel
