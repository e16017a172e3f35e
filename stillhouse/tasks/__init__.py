"""Tasks: what a kind of data is, how it becomes batches, and how answers to it are judged."""

from __future__ import annotations

from stillhouse.tasks.base import TASKS, DataSpec, Judgement, Task
from stillhouse.tasks.batching import BucketLoader, BucketSampler, EncodedSplit
from stillhouse.tasks.text_classification import TextClassification

TASKS["text-classification"] = TextClassification

__all__ = [
    "TASKS",
    "BucketLoader",
    "BucketSampler",
    "DataSpec",
    "EncodedSplit",
    "Judgement",
    "Task",
    "TextClassification",
]
