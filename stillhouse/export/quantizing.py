"""The weights of an ONNX file in 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

_LARGEST = 127
_FEWEST_ELEMENTS = 4096
"""Embeddings smaller than this stay as they are: there is nothing to save."""


def write_int8(path: Path, int8_path: Path, *, spare_narrowing: bool = False) -> None:
    """Write a graph again, with matrices and embeddings in 8 bits; activations are quantized as it runs.

    Each column of a matrix, and each word of an embedding, has a scale of its own. Matrices use 7 of the 8 bits:
    without the instructions of newer processors, sums of two products of full 8 bits overflow.

    Args:
        path: the graph in float32.
        int8_path: what is written.
        spare_narrowing: leave matrices as they are that give fewer features than they read, such as the second one of
            a feed-forward block: what they read has the largest outliers, which 8 bits for a whole batch suit least.
    """
    model = onnx.load(path)
    _turn_weights(model.graph)
    spared = _narrowing(model.graph) if spare_narrowing else []
    with _quiet():
        quantize_dynamic(model, str(int8_path), op_types_to_quantize=["MatMul", "Gemm", "LSTM"], per_channel=True,
                         reduce_range=True, weight_type=QuantType.QInt8, nodes_to_exclude=spared)
    model = onnx.load(int8_path)
    _quantize_embeddings(model.graph)
    onnx.save(model, int8_path)


def _turn_weights(graph: GraphProto) -> None:
    """Matrices that are turned as the graph runs, such as embeddings that are the output layer, too, as turned ones."""
    weights = {one.name: one for one in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        order = next((list(each.ints) for each in node.attribute if each.name == "perm"), None)
        turned = np.ascontiguousarray(np.transpose(numpy_helper.to_array(weights[node.input[0]]), order))
        graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for name in weights.keys() - read:
        graph.initializer.remove(weights[name])


def _narrowing(graph: GraphProto) -> list[str]:
    """The names of the nodes whose matrix gives fewer features than it reads."""
    shapes = {one.name: tuple(one.dims) for one in graph.initializer if len(one.dims) == 2}
    found = []
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in shapes:
            read, given = shapes[node.input[1]]
            if any(each.name == "transB" and each.i for each in node.attribute):
                read, given = given, read
            if given < read:
                found.append(node.name)
    return found


def _quantize_embeddings(graph: GraphProto) -> None:
    """Tables that nothing but ``Gather`` reads, as whole numbers and a scale for each row."""
    tables = {one.name: one for one in graph.initializer
              if one.data_type == TensorProto.FLOAT and len(one.dims) == 2 and np.prod(one.dims) >= _FEWEST_ELEMENTS}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in tables and not _is_lookup(node, place):
                del tables[name]
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += _lookup(node) if _is_lookup(node, 0) and node.input[0] in tables else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    for name, table in tables.items():
        values = numpy_helper.to_array(table)
        scales = np.maximum(np.abs(values).max(axis=1, keepdims=True) / _LARGEST, np.finfo(np.float32).tiny)
        graph.initializer.remove(table)
        graph.initializer.extend([numpy_helper.from_array(np.rint(values / scales).astype(np.int8), f"{name}_int8"),
                                  numpy_helper.from_array(scales.astype(np.float32), f"{name}_scales")])


def _is_lookup(node: NodeProto, place: int) -> bool:
    """Whether the node takes rows out of the input at that place."""
    return node.op_type == "Gather" and place == 0 and not any(each.name == "axis" and each.i for each in
                                                               node.attribute)


def _lookup(node: NodeProto) -> list[NodeProto]:
    """The same look-up in the table of whole numbers: (..., H) times scales of (..., 1)."""
    table, rows = node.input
    output, name = node.output[0], node.name
    whole, scale = f"{output}_whole", f"{output}_row_scale"
    return [helper.make_node("Gather", [f"{table}_int8", rows], [f"{output}_int8"], name=f"{name}_int8"),
            helper.make_node("Gather", [f"{table}_scales", rows], [scale], name=f"{name}_row_scale"),
            helper.make_node("Cast", [f"{output}_int8"], [whole], name=f"{name}_whole", to=TensorProto.FLOAT),
            helper.make_node("Mul", [whole, scale], [output], name=f"{name}_rows")]


@contextmanager
def _quiet() -> Iterator[None]:
    """It advises, on the root logger, to run a step of preprocessing that changes nothing in these graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
