"""The student classes of this package, made known to transformers: its ``from_pretrained`` then loads them."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from stillhouse.students import convolutional, recurrent
from stillhouse.students.word_models import WordConfig

_AUTO_CLASSES: dict[str, Any] = {
    "Model": AutoModel,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
}


class Family(NamedTuple):
    """A configuration class and its models, by how their names end."""

    config: type[WordConfig]
    models: dict[str, Any]


RECURRENT = Family(recurrent.RecurrentConfig, {
    "Model": recurrent.RecurrentModel,
    "ForSequenceClassification": recurrent.RecurrentForSequenceClassification,
    "ForTokenClassification": recurrent.RecurrentForTokenClassification,
    "ForQuestionAnswering": recurrent.RecurrentForQuestionAnswering,
})
CONVOLUTIONAL = Family(convolutional.ConvolutionalConfig, {
    "Model": convolutional.ConvolutionalModel,
    "ForSequenceClassification": convolutional.ConvolutionalForSequenceClassification,
    "ForTokenClassification": convolutional.ConvolutionalForTokenClassification,
    "ForQuestionAnswering": convolutional.ConvolutionalForQuestionAnswering,
})


def register() -> None:
    """Make them known; a second time changes nothing."""
    for family in (RECURRENT, CONVOLUTIONAL):
        AutoConfig.register(family.config.model_type, family.config, exist_ok=True)
        for ending, model in family.models.items():
            _AUTO_CLASSES[ending].register(family.config, model, exist_ok=True)
