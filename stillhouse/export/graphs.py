"""A model as an ONNX graph that takes batches and lengths of any size."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from stillhouse.adaptors.sentence_embedding import EMBEDDING
from stillhouse.errors import PlanError, first_line
from stillhouse.export.recurrent_layers import exportable
from stillhouse.model_size import size_bytes
from stillhouse.modes import evaluation
from stillhouse.tasks import Task
from stillhouse.types import BESIDE_INPUTS

OLDEST_OPSET = 18
"""The oldest operators that torch's exporter writes."""
SENTENCE_EMBEDDING = "sentence_embedding"
_ORDER = ("input_ids", "attention_mask", "token_type_ids")
_TALKATIVE = ("torch.onnx", "torch.export", "torch.__trace", "onnxscript", "onnx_ir")
_LARGEST_IN_ONE_FILE_BYTES = 1_800_000_000  # a protobuf message ends at 2 GiB
_EXAMPLE_ROWS, _EXAMPLE_CHOICES, _EXAMPLE_LENGTH = 2, 3, 7  # all different and none 1, which would be taken as fixed


@final
class Asked(nn.Module):
    """A model as a function of tensors alone, which gives what the task reads.

    Args:
        model: of a task; it is not changed.
        task: whose adaptor pools vectors, where it asks for any.
        batch: one of the batches that the model reads; it names the inputs.
    """

    def __init__(self, model: nn.Module, task: Task[Any], batch: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.adaptor = model, task.adaptor()
        self.has_choices, self.gives_vectors = task.predicts == "choices", task.signal == "embedding"
        accepted = set(inspect.signature(type(model).forward).parameters) - BESIDE_INPUTS
        self.inputs = tuple(name for name in (*_ORDER, *sorted(set(batch) - set(_ORDER)))
                            if name in batch and name in accepted)
        self.outputs = ("start_logits", "end_logits") if task.predicts == "spans" else ("logits",)
        if self.gives_vectors:
            self.outputs = (SENTENCE_EMBEDDING,)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors called ``outputs`` from those called ``inputs``."""
        given = dict(zip(self.inputs, tensors, strict=True))
        if self.gives_vectors:
            return (self.adaptor.run(self.model, given, frozenset({EMBEDDING}), {}).features[EMBEDDING],)
        answer = self.model(**given, return_dict=True)
        return tuple(answer[name] for name in self.outputs)

    def of(self, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The outputs for a batch, of which it takes its inputs."""
        found: tuple[Tensor, ...] = self(*(batch[name] for name in self.inputs))
        return found


def write_graph(model: nn.Module, task: Task[Any], batch: Mapping[str, Any], path: Path, opset: int | None) -> None:
    """Write a model of a task in float32, with weights inside up to 1.8 GB and in a file beside it from there on.

    Of the batch's columns those become inputs that decide anything. Raises `PlanError` for a model that torch's
    exporter cannot follow.
    """
    asked = Asked(exportable(model), task, batch)
    examples = _examples(asked)
    dims = dict(enumerate(("batch", "choices", "sequence") if asked.has_choices else ("batch", "sequence")))
    try:
        with _quiet(), torch.no_grad(), evaluation(asked):
            program: Any = torch.onnx.export(
                asked, examples, dynamo=True, verbose=False, opset_version=opset, input_names=list(asked.inputs),
                output_names=list(asked.outputs), dynamic_shapes=((dims,) * len(examples),))
            graph = program.model.graph
            for value in [value for value in graph.inputs if not value.uses()]:
                graph.inputs.remove(value)
            _forget_where_it_is_from(graph)
            program.save(str(path), external_data=size_bytes(model) > _LARGEST_IN_ONE_FILE_BYTES)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise PlanError(f"{type(model).__name__} cannot be written as ONNX: {_reason(error)}; use it in torch, or "
                        "distil a student of a family that can be exported, such as BERT, RoBERTa, DistilBERT, "
                        "ELECTRA, DeBERTa or ModernBERT") from error


def _forget_where_it_is_from(graph: Any) -> None:
    """Take out the exporter's notes for its authors: stack traces with folders of this machine, and long."""
    graph.metadata_props.clear()
    for noted in (*graph.inputs, *graph.initializers.values(), *graph):
        noted.metadata_props.clear()
    for value in (value for node in graph for value in node.outputs):
        value.metadata_props.clear()


def _examples(asked: Asked) -> tuple[Tensor, ...]:
    """Tensors to follow the model with; the second row is shorter, so that masks are not taken to keep everything."""
    shape: tuple[int, ...] = (_EXAMPLE_ROWS, _EXAMPLE_LENGTH)
    if asked.has_choices:
        shape = (_EXAMPLE_ROWS, _EXAMPLE_CHOICES, _EXAMPLE_LENGTH)
    mask = torch.ones(shape, dtype=torch.long)
    mask[1, ..., -2:] = 0
    values = {"input_ids": torch.ones(shape, dtype=torch.long), "attention_mask": mask}
    return tuple(values.get(name, torch.zeros(shape, dtype=torch.long)) for name in asked.inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter says a great deal that is of no use to anybody but its authors."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: Exception) -> str:
    """The first line of what went wrong at the bottom of it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {first_line(cause)[:300]}".rstrip(": .")
