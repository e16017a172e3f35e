"""Tasks: what a kind of data is, how it becomes batches, and how answers to it are judged."""

from __future__ import annotations

from stillhouse.tasks.base import TASKS, DataSpec, Examples, Task
from stillhouse.tasks.batching import BucketLoader, BucketSampler, EncodedSplit, TwoSided
from stillhouse.tasks.judgement import Judgement
from stillhouse.tasks.masked_lm import MaskedLM, MaskedLMData
from stillhouse.tasks.multiple_choice import MultipleChoice, MultipleChoiceData
from stillhouse.tasks.question_answering import QuestionAnswering, QuestionAnsweringData
from stillhouse.tasks.sentence_embedding import SentenceEmbedding, SentenceEmbeddingData
from stillhouse.tasks.text_classification import TextClassification, TextClassificationData
from stillhouse.tasks.token_classification import TokenClassification, TokenClassificationData

TASKS |= {task.name: task for task in (
    MaskedLM, MultipleChoice, QuestionAnswering, SentenceEmbedding, TextClassification, TokenClassification)}

__all__ = [
    "TASKS",
    "BucketLoader",
    "BucketSampler",
    "DataSpec",
    "EncodedSplit",
    "Examples",
    "Judgement",
    "MaskedLM",
    "MaskedLMData",
    "MultipleChoice",
    "MultipleChoiceData",
    "QuestionAnswering",
    "QuestionAnsweringData",
    "SentenceEmbedding",
    "SentenceEmbeddingData",
    "Task",
    "TextClassification",
    "TextClassificationData",
    "TokenClassification",
    "TokenClassificationData",
    "TwoSided",
]
