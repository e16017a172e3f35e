"""Adaptors: translate a model's inputs and outputs into named tensors and masks."""

from stillhouse.adaptors.base import Adaptor, Signals
from stillhouse.adaptors.early_stop import StoppingEarly
from stillhouse.adaptors.function import ADAPTOR_KEYS, FunctionAdaptor
from stillhouse.adaptors.gram import GramOutputs, gram_key
from stillhouse.adaptors.hugging_face import HuggingFaceAdaptor
from stillhouse.adaptors.masked_lm import MaskedLMAdaptor
from stillhouse.adaptors.module_path import ModuleOutputs, ModulePathAdaptor
from stillhouse.adaptors.sentence_embedding import EMBEDDING, SentenceEmbeddingAdaptor

__all__ = ["ADAPTOR_KEYS", "EMBEDDING", "Adaptor", "FunctionAdaptor", "GramOutputs", "HuggingFaceAdaptor",
           "MaskedLMAdaptor", "ModuleOutputs", "ModulePathAdaptor", "SentenceEmbeddingAdaptor", "Signals",
           "StoppingEarly", "gram_key"]
