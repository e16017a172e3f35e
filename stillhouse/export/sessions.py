"""An ONNX file, asked as any other model is: by name, for named tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import onnxruntime
import torch
from torch import Tensor, nn

from stillhouse.adaptors.sentence_embedding import EMBEDDING
from stillhouse.batches import windows
from stillhouse.export.graphs import SENTENCE_EMBEDDING
from stillhouse.tasks import EncodedSplit, Judgement, Task
from stillhouse.tasks.answering import Answers, answers

_BATCH_SIZE, _BATCH_SIZE_OF_VOCABULARIES = 64, 8  # a logit for every word of a language at every token
_ERRORS_ONLY = 3


@final
class OnnxModel(nn.Module):
    """A graph in onnxruntime on the CPU.

    Args:
        path: the file.
        num_threads: that one answer is computed with.
    """

    def __init__(self, path: Path, num_threads: int) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.log_severity_level = _ERRORS_ONLY
        self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(item.name for item in self.session.get_inputs())
        self.outputs = tuple(item.name for item in self.session.get_outputs())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None,
                return_dict: bool = True) -> dict[str, Tensor]:
        """The graph's outputs by name, whatever ``return_dict`` says."""
        return self.of({"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids})

    def of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The outputs for a batch, of which it takes its inputs."""
        found = self.session.run(None, {name: batch[name].numpy() for name in self.inputs})
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}

    def get_output_embeddings(self) -> None:
        """None: they are inside the graph, which gives the logits of every token."""


def judged(model: OnnxModel, task: Task[Any], encoded: EncodedSplit) -> Judgement:
    """How good a graph's answers are."""
    if task.signal == "embedding":
        return task.judged(encoded, _embeddings(model, encoded))
    size = _BATCH_SIZE_OF_VOCABULARIES if task.classes_are_tokens else _BATCH_SIZE
    return task.judged(encoded, answers(model, task.adaptor(), encoded, task.reads, batch_size=size))


def _embeddings(model: OnnxModel, encoded: EncodedSplit) -> Answers:
    """The vectors that the graph has pooled itself."""
    for rows in windows(encoded.lengths.argsort(kind="stable")[::-1].tolist(), _BATCH_SIZE):
        yield rows, {EMBEDDING: model.of(encoded.batch(rows))[SENTENCE_EMBEDDING]}

